"""TrajViT2Processor: videos and texts in, what `TrajViT2Model` reads out.

In:   videos in any form that `TrajTokVideoProcessor` takes; texts
Out:  pixel_values_videos, frame_valid; input_ids, attention_mask
To:   modeling_trajvit2
"""

from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor

from .chat_messages import close_name

logger = logging.get_logger(__name__)


class TrajViT2ProcessorKwargs(ProcessingKwargs, total=False):
    """Texts of a batch are padded to the longest, and cut where the text tower ends."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}  # noqa: RUF012 - Transformers reads it here


class TrajViT2Processor(ProcessorMixin):
    """A `TrajTokVideoProcessor` and the tokenizer of the text tower.

    ``processor(videos="clip.mp4", text=["a dog runs"], return_tensors="pt")`` gives the inputs of `TrajViT2Model`;
    either may be left out. Texts with more tokens than the text tower takes are cut, with a warning.
    """

    valid_processor_kwargs = TrajViT2ProcessorKwargs
    skip_tensor_conversion = ("video_metadata", "failures", "kept_videos")

    def __init__(self, video_processor=None, tokenizer=None, **kwargs):
        expected = {
            "video_processor": (video_processor, BaseVideoProcessor, "a TrajTokVideoProcessor"),
            "tokenizer": (tokenizer, PreTrainedTokenizerBase, "the tokenizer of the text tower"),
        }
        for name, (part, kind, wanted) in expected.items():
            if not isinstance(part, kind):
                raise ValueError(
                    f"TrajViT2Processor got {type(part).__name__} as {name}, expected {wanted}. Load a saved one with "
                    "TrajViT2Processor.from_pretrained(folder)."
                )
        super().__init__(video_processor, tokenizer, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers, which notes in the processor where its code lies; that belongs to the folder."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        vars(self).pop("auto_map", None)
        return files

    def __call__(self, text: str | list[str] | None = None, videos: Any = None, **kwargs) -> BatchFeature:
        """Turn videos, texts or both into tensors.

        Args:
            text: a text or a list of texts.
            videos: a path, URL, bytes, file, array, tensor or list of pictures; or a list of those.
            **kwargs: settings of the tokenizer and of the video processor, and ``return_tensors``. With
                ``skip_bad_videos`` also ``failures`` and ``kept_videos`` come back, as from the video processor: the
                rows of the videos that are left belong to the texts at ``kept_videos``, if there is one for each.

        Raises:
            ValueError: nothing to read, texts that are no texts, a keyword that nothing reads, or a bad video.
        """
        self._refuse_unknown(kwargs)
        if text is not None:
            text = self._checked_texts(text)
        inputs = super().__call__(text=text, videos=videos, **kwargs)
        if text is not None:
            rows, texts = inputs["input_ids"], [text] if isinstance(text, str) else text
            self._warn_of_cut_texts(texts, [rows] if isinstance(rows[0], int) else rows)
        failures = inputs.get("failures")
        if failures and not isinstance(text, str) and text is not None:
            logger.warning(
                f"{len(failures)} of {len(failures) + len(inputs['kept_videos'])} videos were skipped, the texts are "
                "all there: `kept_videos` says which videos are left."
            )
        return inputs

    def _refuse_unknown(self, kwargs: dict) -> None:
        """Transformers warns of keywords that nobody reads, and goes on without what they held."""
        known = {"text", "videos", "common_kwargs", *self.valid_processor_kwargs.__annotations__}
        for name in ("text_kwargs", "videos_kwargs"):
            known |= set(self.valid_processor_kwargs.__annotations__[name].__annotations__)
        known |= set(self.video_processor.valid_kwargs.__annotations__)
        for name, value in kwargs.items():
            if name in ("images", "audio") and value is not None:
                raise ValueError(
                    f"TrajViT2Processor got {name}=, expected text and videos."
                    + (" An image is a video of one frame: videos=[[image]]." if name == "images" else "")
                )
            if name not in known | {"images", "audio"}:
                raise ValueError(
                    f"TrajViT2Processor got {name}=, which nothing here reads." + close_name(name, sorted(known))
                )

    @staticmethod
    def _checked_texts(text: Any) -> str | list[str]:
        texts = text if isinstance(text, (list, tuple)) else [text]
        for number, one in enumerate(texts, 1):
            if not isinstance(one, str):
                raise ValueError(
                    f"TrajViT2Processor got {type(one).__name__} as text {number} of {len(texts)}, expected a text or "
                    "a list of texts."
                )
        if not texts:
            raise ValueError("TrajViT2Processor got an empty list of texts, expected at least one, or None for none.")
        return str(text) if isinstance(text, str) else list(map(str, text))

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
