from transformers import Pipeline


class ZeroShotVideoClassificationPipeline(Pipeline):
    pass
