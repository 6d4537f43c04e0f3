"""TrajTok for Transformers: ``import modeling_trajtok`` makes the Auto classes know its models.

import modeling_trajtok
from transformers import AutoModel, AutoVideoProcessor
"""

import transformers
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_trajadapter import TrajAdapterConfig
from .configuration_trajtok import TrajTokConfig
from .configuration_trajvit2 import TrajViT2Config, TrajViT2TransformerConfig
from .configuration_trajvlm import TrajVLMConfig
from .modeling_trajadapter import TrajAdapterForVideoClassification, TrajAdapterModel, TrajAdapterPreTrainedModel
from .modeling_trajtok import TrajTokModel, TrajTokPreTrainedModel, TrajTokSegmenterModel
from .modeling_trajvit2 import (
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2PreTrainedModel,
    TrajViT2VideoModel,
)
from .modeling_trajvlm import TrajVLMForConditionalGeneration, TrajVLMGrouping, TrajVLMModel, TrajVLMPreTrainedModel
from .outputs_trajtok import (
    TrajAdapterClassifierOutput,
    TrajAdapterOutput,
    TrajTokOutput,
    TrajViT2ClassifierOutput,
    TrajViT2Output,
    TrajViT2VideoOutput,
    TrajVLMFeatures,
    TrajVLMGroupingOutput,
    TrajVLMModelOutput,
    TrajVLMOutput,
)
from .processors import TrajTokVideoProcessor, TrajViT2Processor, TrajVLMProcessor
from .zero_shot_video_classification import ZeroShotVideoClassificationPipeline

__version__ = "0.1.0"

# The models of each family and what reads their inputs; without a processor the video processor is all.
_FAMILIES = (
    (TrajTokPreTrainedModel, None),
    (TrajViT2PreTrainedModel, TrajViT2Processor),
    (TrajVLMPreTrainedModel, TrajVLMProcessor),
    (TrajAdapterPreTrainedModel, None),
)


def _register(family: type, processor: type | None) -> None:
    """Make the Auto classes know a family, here and, with the code that is saved beside weights, on the Hub."""
    config = family.config_class
    AutoConfig.register(config.model_type, config)
    config.register_for_auto_class()
    for auto_class, names in family.auto_classes.items():
        models = tuple(globals()[name] for name in names)
        getattr(transformers, auto_class).register(config, models if len(models) > 1 else models[0])
        for model in models:
            model.register_for_auto_class(auto_class)
    AutoVideoProcessor.register(config, TrajTokVideoProcessor)
    if processor is not None:
        AutoProcessor.register(config, processor)
        processor.register_for_auto_class()


for _family, _processor in _FAMILIES:
    _register(_family, _processor)
TrajTokVideoProcessor.register_for_auto_class()

PIPELINE_REGISTRY.register_pipeline(
    "zero-shot-video-classification",
    pipeline_class=ZeroShotVideoClassificationPipeline,
    pt_model=AutoModel,
    type="multimodal",
)

__all__ = [
    "TrajAdapterClassifierOutput",
    "TrajAdapterConfig",
    "TrajAdapterForVideoClassification",
    "TrajAdapterModel",
    "TrajAdapterOutput",
    "TrajAdapterPreTrainedModel",
    "TrajTokConfig",
    "TrajTokModel",
    "TrajTokOutput",
    "TrajTokPreTrainedModel",
    "TrajTokSegmenterModel",
    "TrajTokVideoProcessor",
    "TrajVLMConfig",
    "TrajVLMFeatures",
    "TrajVLMForConditionalGeneration",
    "TrajVLMGrouping",
    "TrajVLMGroupingOutput",
    "TrajVLMModel",
    "TrajVLMModelOutput",
    "TrajVLMOutput",
    "TrajVLMPreTrainedModel",
    "TrajVLMProcessor",
    "TrajViT2ClassifierOutput",
    "TrajViT2Config",
    "TrajViT2ForVideoClassification",
    "TrajViT2Model",
    "TrajViT2Output",
    "TrajViT2PreTrainedModel",
    "TrajViT2Processor",
    "TrajViT2TransformerConfig",
    "TrajViT2VideoModel",
    "TrajViT2VideoOutput",
    "ZeroShotVideoClassificationPipeline",
]
