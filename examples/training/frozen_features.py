"""What a frozen patch encoder says of every clip, computed once and then read at the speed of memory.

In:   ClipCache, a TrajTok model whose segmenter is not trained
Out:  patch_features (T, H, W, D) in half precision of chosen frames
To:   caption_views
"""

from pathlib import Path

import numpy as np
import torch
from evaluation.provenance import weights_hash
from torch import Tensor
from tqdm import tqdm

from modeling_trajtok import TrajTokModel

from .clip_cache import ClipCache
from .pixels import normalise, pixels_of


class FrozenFeatures:
    """A memory-mapped array for the features of all clips.

    Args:
        clips: the clips.
        folder: where the array lives, in a folder of the segmenter's own.
        model: whose segmenter encodes.
    """

    def __init__(self, clips: ClipCache, folder: Path, model: TrajTokModel):
        folder = folder / f"features-{weights_hash(model.segmenter)[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        side, width = clips.size_px // model.segmenter.patch_encoder.stride, model.config.hidden_size
        self.clips, self.model = clips, model
        shape = (len(clips), clips.num_frames, side, side)
        self.features = clips.array(folder / "features.npy", (*shape, width), np.float16)
        self.done = clips.array(folder / "done.npy", (len(clips),), np.uint8)

    @torch.no_grad()
    def compute(self, batch_size: int = 16, show_progress: bool = True) -> None:
        """Encode the clips that have not been yet; a run that was killed goes on where it stopped."""
        model = self.model
        was_training = model.training
        model.eval()
        todo = np.flatnonzero(self.done == 0)
        progress = tqdm(total=len(todo), desc="features of frozen patches", disable=not show_progress)
        for first in range(0, len(todo), batch_size):
            batch = todo[first : first + batch_size]
            frames = np.stack([self.clips[self.clips.position_of(index)][0] for index in batch])
            features = model.segmenter.encode_frames(normalise(pixels_of(frames)).to(model.device))
            self.features[batch] = features.half().cpu().view(len(batch), *self.features.shape[1:])
            self.done[batch] = 1
            progress.update(len(batch))
        progress.close()
        model.train(was_training)

    def read(self, clip: int, frames: np.ndarray) -> dict[str, Tensor]:
        """The chosen frames of a clip."""
        return {"patch_features": torch.from_numpy(self.features[clip][frames])}
