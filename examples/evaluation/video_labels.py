"""Which of some texts describes a video, as far as a TrajViT2 checkpoint can tell, or none of them.

In:   a TrajViT2 checkpoint; frames_uint8 (T, H_px, W_px, 3); texts
Out:  the cosine of the video with each text, best first; the best text, or that none fits
To:   demo.py, app.py

Cosines and no probabilities: a softmax over the texts gives one of them all the weight even if none is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from modeling_trajtok import TrajViT2Model, TrajViT2Processor

from .checkpoint_limits import knows_worlds_only, unknown_words
from .embedding_cache import embed_captions
from .provenance import checkpoint_record

NONE_FITS = "none of these"
# Of trajvit2-tiny: 0.91 of the true summaries of 120 easy worlds lie above it, 0.91 of the false ones below, and 0.98
# of what such summaries reach on real clips. Shorter texts seldom reach it, true or not.
SHIPPED_FITS_FROM = 0.55


@dataclass
class VideoLabels:
    """What was found of the texts for one video.

    Attributes:
        cosines: {"label", "cosine"} of each text that was scored, best first.
        not_scored: {"label", "unknown_words"} of each text that was not.
        fits_from: the cosine from which on a text counts as true; None: nobody has measured that.
    """

    cosines: list[dict]
    not_scored: list[dict] = field(default_factory=list)
    fits_from: float | None = None

    @property
    def answer(self) -> str:
        """The best text, or `NONE_FITS`."""
        if not self.cosines or (self.fits_from is not None and self.cosines[0]["cosine"] < self.fits_from):
            return NONE_FITS
        return self.cosines[0]["label"]


class VideoLabeller:
    """A TrajViT2 checkpoint that compares videos with texts.

    Args:
        name: folder or Hub name.

    Attributes:
        model: in evaluation mode, on the GPU if there is one.
        processor: of the model.
        record: name and hashes of the checkpoint.
        worlds_only: whether it is a shipped checkpoint; then texts with words that it never read are not scored.

    Raises:
        ValueError, OSError, RuntimeError: no such checkpoint can be read.
    """

    def __init__(self, name: str):
        model = TrajViT2Model.from_pretrained(name).eval()
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = TrajViT2Processor.from_pretrained(name)
        self.record = checkpoint_record(name)
        self.worlds_only = knows_worlds_only(self.record)

    @torch.inference_mode()
    def label(self, frames_uint8: np.ndarray, texts: Sequence[str]) -> VideoLabels:
        """Compare frames (T, H_px, W_px, 3), of which the model reads as many as it was made for, with whole texts."""
        unknown = {text: unknown_words(self.processor.tokenizer, text) if self.worlds_only else [] for text in texts}
        scored = [text for text, words in unknown.items() if not words]
        not_scored = [{"label": text, "unknown_words": words} for text, words in unknown.items() if words]
        found = []
        if scored:
            num_frames = self.model.config.num_frames
            inputs = self.processor.video_processor(frames_uint8, num_frames=num_frames, return_tensors="pt")
            video = self.model.get_video_features(**inputs.to(self.model.device)).pooler_output.float().cpu()
            embeds, _ = embed_captions(self.model, self.processor.tokenizer, scored)
            found = [
                {"label": text, "cosine": round(cosine, 4)}
                for text, cosine in zip(scored, (embeds @ video[0]).tolist(), strict=True)
            ]
        found.sort(key=lambda entry: -entry["cosine"])
        return VideoLabels(found, not_scored, SHIPPED_FITS_FROM if self.worlds_only else None)
