"""TrajViT2Processor: videos and texts in, what `TrajViT2Model` reads out.

In:   videos in any form that `TrajTokVideoProcessor` takes; texts
Out:  pixel_values_videos, frame_valid; input_ids, attention_mask
To:   modeling_trajvit2
"""

from transformers import ProcessorMixin


class TrajViT2Processor(ProcessorMixin):
    """A `TrajTokVideoProcessor` and the tokenizer of the text tower."""

    def __init__(self, video_processor=None, tokenizer=None, **kwargs):
        super().__init__(video_processor, tokenizer, **kwargs)


__all__ = ["TrajViT2Processor"]
