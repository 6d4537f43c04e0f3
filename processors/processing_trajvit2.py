"""TrajViT2Processor: videos and texts in, what `TrajViT2Model` reads out.

In:   videos in any form that `TrajTokVideoProcessor` takes; texts
Out:  pixel_values_videos, frame_valid; input_ids, attention_mask
To:   modeling_trajvit2
"""

from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

from .video_processing_trajtok import TrajTokVideoProcessorKwargs

logger = logging.get_logger(__name__)


class TrajViT2ProcessorKwargs(ProcessingKwargs, total=False):
    """Texts of a batch are padded to the longest, and cut where the text tower ends."""

    videos_kwargs: TrajTokVideoProcessorKwargs
    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}  # noqa: RUF012 - Transformers reads it here


class TrajViT2Processor(ProcessorMixin):
    """A `TrajTokVideoProcessor` and the tokenizer of the text tower.

    ``processor(videos="clip.mp4", text=["a dog runs"], return_tensors="pt")`` gives the inputs of `TrajViT2Model`;
    either may be left out. Texts with more tokens than the text tower takes are cut, with a warning.
    """

    valid_processor_kwargs = TrajViT2ProcessorKwargs

    def __init__(self, video_processor=None, tokenizer=None, **kwargs):
        super().__init__(video_processor, tokenizer, **kwargs)

    def __call__(self, text=None, videos=None, **kwargs) -> BatchFeature:
        """Turn videos, texts or both into tensors.

        Args:
            text: a text or a list of texts.
            videos: a path, URL, bytes, file, array, tensor or list of pictures; or a list of those.
            **kwargs: settings of the tokenizer and of the video processor, and ``return_tensors``.
        """
        inputs = super().__call__(text=text, videos=videos, **kwargs)
        if text is not None:
            rows, texts = inputs["input_ids"], [text] if isinstance(text, str) else list(text)
            self._warn_of_cut_texts(texts, [rows] if isinstance(rows[0], int) else rows)
        return inputs

    def _warn_of_cut_texts(self, texts: list[str], input_ids) -> None:
        longest = max(len(ids) for ids in input_ids)
        suspects = [text for text, ids in zip(texts, input_ids, strict=True) if len(ids) == longest]
        lengths = self.tokenizer(suspects, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = [text for text, ids in zip(suspects, lengths, strict=True) if len(ids) > longest]
        if cut:
            logger.warning(
                f"{len(cut)} of {len(texts)} texts have more than {longest} tokens and were cut, the first: "
                f"{cut[0][:60]!r}. Shorten them to what matters."
            )


__all__ = ["TrajViT2Processor"]
