"""Grid operations: the only place where the axes of a patch grid move.

A clip's patches form a (T, H, W) grid, flattened with t slowest and w fastest: n = (t * H + h) * W + w.

In:   tensors over patches (B, N, C) or frames (B, T, ...)
Out:  the same values in the other layout
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GridSize(NamedTuple):
    """Frames, patch rows and patch columns of a clip."""

    t: int
    h: int
    w: int

    @property
    def num_patches(self) -> int:
        """N = T * H * W."""
        return self.t * self.h * self.w

    @property
    def patches_per_frame(self) -> int:
        """H * W."""
        return self.h * self.w


def unflatten_grid(patches: Tensor, grid: GridSize) -> Tensor:
    """(B, N, C) -> (B*T, C, H, W), one feature map per frame."""
    batch, _, channels = patches.shape
    return patches.reshape(batch * grid.t, grid.h, grid.w, channels).permute(0, 3, 1, 2)


def flatten_grid(feature_maps: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, N, C)."""
    return feature_maps.permute(0, 2, 3, 1).reshape(batch, -1, feature_maps.shape[1])


def resize_patches(patches: Tensor, grid: GridSize, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize of each frame's patches: (B, T*H*W, C) -> (B, T*H'*W', C)."""
    if (grid.h, grid.w) == tuple(size_hw):
        return patches
    maps = F.interpolate(unflatten_grid(patches, grid), size=size_hw, mode="bilinear", align_corners=False)
    return flatten_grid(maps, patches.shape[0])


def pool_frames(patches: Tensor, grid: GridSize, num_frames: int) -> Tensor:
    """Mean over the frames of each tubelet, for features that span several frames: (B, T*H*W, C) -> (B, T'*H*W, C)."""
    if grid.t == num_frames:
        return patches
    tubelets = patches.unflatten(1, (num_frames, grid.t // num_frames, grid.patches_per_frame))
    return tubelets.mean(dim=2).flatten(1, 2)


def pool_frame_mask(frame_mask: Tensor, num_frames: int) -> Tensor:
    """(B, T) -> (B, T'): True for a tubelet with a frame that is True."""
    return frame_mask.unflatten(1, (num_frames, -1)).any(dim=2)


def resize_ids(ids: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize integer ids, each new cell taking the id at its centre: (B, T, H, W) -> (B, T, H', W')."""
    if tuple(ids.shape[-2:]) == tuple(size_hw):
        return ids
    return F.interpolate(ids.to(torch.float32), size=size_hw, mode="nearest-exact").to(ids.dtype)


def expand_frame_mask(frame_mask: Tensor, grid: GridSize) -> Tensor:
    """(B, T) -> (B, N): every patch gets its frame's value."""
    return frame_mask.repeat_interleave(grid.patches_per_frame, dim=1)
