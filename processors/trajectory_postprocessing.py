"""Trajectory postprocessing: from the model's patch grid back to the pixels of the source.

In:   assignment logits (T, h, w, K) or trajectory ids (T, h, w) of one clip; the size of its source
Out:  labels (T, H_px, W_px) int16, trajectory id per pixel, -1 = none
From: TrajTokModel outputs, through video_processing_trajtok     To: trajectory_maps

Logits are enlarged, not ids: borders between trajectories come out smooth instead of in steps of one patch.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

MAX_VALUES_IN_MEMORY = 1 << 22  # float32 logits of pixels enlarged at a time, 16 MB per copy


def kept_trajectories(trajectory_ids: torch.Tensor, min_area_fraction: float) -> torch.Tensor:
    """Trajectories that own enough of a clip; the largest one, if there is any, is always kept.

    Args:
        trajectory_ids: (T, H, W) of the frames that count.
        min_area_fraction: smallest share of all patches, 0 to 1.

    Returns:
        (M,) int64 ids, ascending.
    """
    ids, areas = trajectory_ids[trajectory_ids >= 0].unique(return_counts=True)
    if not len(ids):
        return ids
    return ids[(areas >= min_area_fraction * trajectory_ids.numel()) | (areas == areas.max())]


def unflatten_logits(logits: torch.Tensor, grid_thw: tuple[int, int, int]) -> torch.Tensor:
    """(N·f·f, K) on a grid f times as fine as `grid_thw` → (T, H·f, W·f, K), t slowest.

    Raises:
        ValueError: the number of places fits no whole f.
    """
    frames, height, width = grid_thw
    places, num_trajectories = logits.shape
    finer = math.isqrt(places // (frames * height * width))
    if finer < 1 or places != frames * height * width * finer * finer:
        raise ValueError(f"{places} places of logits do not fit a patch grid of {frames}x{height}x{width}.")
    return logits.reshape(frames, height * finer, width * finer, num_trajectories)


def labels_from_logits(logits: torch.Tensor, kept: torch.Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """Enlarge bilinearly (align_corners=False) and take the strongest kept trajectory of each pixel.

    Args:
        logits: (T, h, w, K).
        kept: (M,) trajectories that may win; none of them leaves all pixels at -1.
        size_hw: wanted height and width in pixels.

    Returns:
        (T, H_px, W_px) int16. Works frame by frame and in blocks of pixels: memory does not grow with T.
    """
    labels = np.full((len(logits), *size_hw), -1, dtype=np.int16)
    if not len(kept):
        return labels
    (top, bottom, down), (left, right, across) = (
        _neighbours(num_patches, num_pixels, logits.device)
        for num_patches, num_pixels in zip(logits.shape[1:3], size_hw, strict=True)
    )
    for t, frame in enumerate(logits):
        candidates = frame[..., kept].float()  # (h, w, M)
        best = candidates.argmax(dim=-1)
        winner = best[top][:, left]
        # A trajectory that wins at all four neighbouring patches wins everywhere between them.
        undecided = torch.zeros_like(winner, dtype=torch.bool)
        for rows, columns in ((top, right), (bottom, left), (bottom, right)):
            undecided |= best[rows][:, columns] != winner
        for places in undecided.nonzero().split(max(1, MAX_VALUES_IN_MEMORY // len(kept))):
            y, x = places.unbind(dim=1)
            upper = torch.lerp(candidates[top[y], left[x]], candidates[top[y], right[x]], across[x, None])
            lower = torch.lerp(candidates[bottom[y], left[x]], candidates[bottom[y], right[x]], across[x, None])
            winner[y, x] = torch.lerp(upper, lower, down[y, None]).argmax(dim=-1)
        labels[t] = kept[winner].to(torch.int16).cpu().numpy()
    return labels


def _neighbours(num_patches: int, num_pixels: int, device: torch.device):
    """Along one axis: the patches before and after each pixel, and the share of the one after."""
    centers = (torch.arange(num_pixels, device=device, dtype=torch.float32) + 0.5) * (num_patches / num_pixels) - 0.5
    centers = centers.clamp(0, num_patches - 1)
    before = centers.floor().long()
    return before, (before + 1).clamp(max=num_patches - 1), centers - before


def labels_from_ids(trajectory_ids: torch.Tensor, kept: torch.Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """Enlarge (T, h, w) ids to (T, H_px, W_px) int16 by the nearest patch; trajectories not kept become -1."""
    ids = torch.where(torch.isin(trajectory_ids, kept), trajectory_ids, -1)
    enlarged = F.interpolate(ids[None].float(), size=size_hw, mode="nearest-exact")[0]
    return enlarged.to(torch.int16).cpu().numpy()
