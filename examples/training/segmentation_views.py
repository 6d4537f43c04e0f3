"""Training views: random pieces of cached clips, the same for the same number.

In:   ClipCache
Out:  pixel_values_videos (T, 3, S, S) ImageNet-normalised, trajectory_labels (T, S, S), -1 = ignore
To:   train_trajtok.py
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from .clip_cache import ClipCache
from .pixels import normalise, pixels_of


class SegmentationViews(Dataset):
    """View j: a clip in an order shuffled anew each epoch; some of its frames, cropped, mirrored and recoloured.

    Everything is drawn from a generator seeded by (seed, j), so a resumed run, or one with more processes, sees the
    same views.
    """

    def __init__(self, clips: ClipCache, *, num_views: int, num_frames: int, seed: int, min_crop: float = 0.6):
        self.clips = clips
        self.num_views = num_views
        self.num_frames = num_frames
        self.seed = seed
        self.min_crop = min_crop

    def __len__(self) -> int:
        return self.num_views

    def __getitem__(self, view: int) -> dict[str, Tensor]:
        epoch, position = divmod(view, len(self.clips))
        clip = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips))[position]
        frames, ids = self.clips[clip]
        rng = np.random.default_rng([self.seed, 1, view])

        chosen = self._choose_frames(len(frames), rng)
        pixels = pixels_of(frames[chosen])
        labels = torch.from_numpy(ids[chosen].astype(np.int64))
        pixels, labels = self._crop(pixels, labels, rng)
        for axis in (-1, -2):
            if rng.random() < 0.5:
                pixels, labels = pixels.flip(axis), labels.flip(axis)
        pixels = self._recolour(pixels, rng)
        return {
            "pixel_values_videos": normalise(pixels),
            "trajectory_labels": consecutive(labels),
        }

    def _choose_frames(self, available: int, rng: np.random.Generator) -> np.ndarray:
        if available <= self.num_frames:
            return np.arange(available)
        stride = rng.integers(1, (available - 1) // (self.num_frames - 1) + 1) if self.num_frames > 1 else 1
        first = rng.integers(0, available - (self.num_frames - 1) * stride)
        chosen = first + stride * np.arange(self.num_frames)
        return chosen[::-1].copy() if rng.random() < 0.5 else chosen

    def _crop(self, pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        size = pixels.shape[-1]
        height, width = (round(size * side) for side in rng.uniform(self.min_crop, 1.0, size=2))
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        pixels = pixels[..., top : top + height, left : left + width]
        labels = labels[..., top : top + height, left : left + width]
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear")
        labels = F.interpolate(labels.float().unsqueeze(1), size=(size, size)).squeeze(1).long()
        return pixels, labels

    @staticmethod
    def _recolour(pixels: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() < 0.3:
            pixels = pixels[:, rng.permutation(3).copy()]
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, size=(1, 3, 1, 1)).astype(np.float32))
        offset = torch.from_numpy(rng.uniform(-0.1, 0.1, size=(1, 3, 1, 1)).astype(np.float32))
        return (pixels * gain + offset).clamp(0, 1)


def consecutive(ids: Tensor) -> Tensor:
    """Renumber ids to 0 ... M-1 in their order; negative ids become -1 (ignored by the loss)."""
    values, index = ids.unique(return_inverse=True)
    known = values >= 0
    return torch.where(known, known.cumsum(0) - 1, -1)[index]
