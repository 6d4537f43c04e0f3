"""Segmentation losses: how well do the predicted trajectories agree with given ones?

In:   assignment logits (B, N, K), label masks (B, N, K): the share of patch n that label m covers, 0 to 1
Out:  matching (B, K) and scalar losses
From: segmenter_trajtok     To: training
Official: hungarian.py

A patch on a border belongs to several labels, each with its share of the area; what no label covers is ignored.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import is_scipy_available, requires_backends

from .grid_ops import resize_ids

if is_scipy_available():
    from scipy.optimize import linear_sum_assignment

IGNORE = -1


class SegmentationLoss(NamedTuple):
    """The pixel loss and the Dice loss, both scalars."""

    pixel: Tensor
    dice: Tensor


def label_masks(labels: Tensor, num_trajectories: int) -> Tensor:
    """Labels (B, N), -1 = ignore -> masks (B, N, K) in fp32, each 0 or 1; ignored patches belong to none."""
    return F.one_hot(labels + 1, num_trajectories + 1)[..., 1:].float()


def patch_label_masks(
    labels: Tensor, size_hw: tuple[int, int], num_trajectories: int, resampling: Literal["area", "nearest"] = "area"
) -> Tensor:
    """The share of each patch that each label covers.

    Args:
        labels: (B, T, h, w) at any resolution, 0 ... K-1, -1 = ignore.
        size_hw: patch rows H and columns W.
        num_trajectories: K.
        resampling: "area": shares of the patch's area; a label pixel counts for the patch that its centre lies in.
            "nearest": all of the patch goes to the label at its upper left corner, as in the original.

    Returns:
        (B, T*H*W, K) in fp32.
    """
    if resampling == "nearest":
        corners = F.interpolate(labels.float(), size=size_hw, mode="nearest").to(labels.dtype)
        return label_masks(corners.flatten(1), num_trajectories)
    (batch, frames), (height, width) = labels.shape[:2], size_hw
    labels = resize_ids(labels, (max(labels.shape[2], height), max(labels.shape[3], width)))
    row, column = (
        ((2 * torch.arange(pixels, device=labels.device) + 1) * patches) // (2 * pixels)
        for pixels, patches in zip(labels.shape[2:], size_hw, strict=True)
    )
    patch = (row.unsqueeze(1) * width + column).expand_as(labels).flatten(2)
    frame = torch.arange(batch * frames, device=labels.device).view(batch, frames, 1)
    slot = (frame * height * width + patch) * (num_trajectories + 1) + labels.flatten(2) + 1
    counts = torch.zeros(batch * frames * height * width * (num_trajectories + 1), device=labels.device)
    counts.index_add_(0, slot.flatten(), torch.ones_like(slot, dtype=counts.dtype).flatten())
    counts = counts.view(batch, frames * height * width, num_trajectories + 1)
    return counts[..., 1:] / counts.sum(dim=2, keepdim=True)


@torch.no_grad()
def match_labels(
    logits: Tensor, masks: Tensor, cost: Literal["soft", "iou"] = "soft", label_valid: Tensor | None = None
) -> Tensor:
    """Hungarian matching of labels with predicted trajectories.

    Args:
        logits: (B, N, K).
        masks: (B, N, K) share of each patch that each label covers.
        cost: "soft": Dice and cross-entropy cost of the soft masks. "iou": minus the IoU of label and hard assignment
            (the original's cost, which cannot tell apart trajectories that win no patch).
        label_valid: (B, K), False for labels that are padding; labels without a patch match anything either way.

    Returns:
        (B, K): entry m is the trajectory matched to label m; a permutation of 0 ... K-1.
    """
    requires_backends(match_labels, "scipy")
    logits = logits.float()
    areas = masks.sum(dim=1).unsqueeze(2)
    if cost == "iou":
        hard = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        overlap = masks.transpose(1, 2) @ hard
        # The original counts the predictions of ignored patches in the union as well.
        union = areas + hard.sum(dim=1).unsqueeze(1) - overlap
        costs = -overlap / union.clamp(min=1.0)
    else:
        log_probs = logits.log_softmax(dim=-1)
        probs = log_probs.exp()
        covered = (probs * masks.sum(dim=2, keepdim=True)).sum(dim=1).unsqueeze(1)
        dice = (2 * masks.transpose(1, 2) @ probs + 1.0) / (areas + covered + 1.0)
        costs = -(masks.transpose(1, 2) @ log_probs) / areas.clamp(min=1.0) + 2 * (1.0 - dice)
        costs = costs * (areas > 0)
    if label_valid is not None:
        costs = costs * label_valid.unsqueeze(2)
    matches = [linear_sum_assignment(clip_costs)[1] for clip_costs in costs.cpu().numpy()]
    return torch.from_numpy(np.stack(matches)).to(logits.device)


def align_logits(logits: Tensor, matching: Tensor) -> Tensor:
    """Reorder trajectories so that column m stands for label m: (B, N, K) -> (B, N, K)."""
    return logits.gather(2, matching.unsqueeze(1).expand_as(logits))


def pixel_loss(
    aligned_logits: Tensor, masks: Tensor, pooling: Literal["clip", "batch"] = "clip", gamma: float = 2.0
) -> Tensor:
    """Focal loss over the labelled patches; ``gamma=0`` is cross-entropy.

    Args:
        aligned_logits: (B, N, K), column m stands for label m.
        masks: (B, N, K) share of each patch that each label covers.
        pooling: "clip": mean over each clip, then over clips. "batch": mean over all patches, as in the original.
        gamma: focusing parameter.
    """
    log_probs = aligned_logits.float().log_softmax(dim=-1)
    losses = -((1.0 - log_probs.exp()) ** gamma) * log_probs if gamma else -log_probs
    return _pooled_mean((losses * masks).sum(dim=2), masks.sum(dim=2), pooling)


def dice_loss(
    aligned_logits: Tensor, masks: Tensor, pooling: Literal["clip", "batch"] = "clip", eps: float = 1e-6
) -> Tensor:
    """One minus the soft Dice overlap, averaged over the labels that have patches.

    Args:
        aligned_logits: (B, N, K), column m stands for label m.
        masks: (B, N, K) share of each patch that each label covers.
        pooling: "clip": mean over each clip's labels, then over clips. "batch": label m of all clips is one mask, as
            in the original.
        eps: added to both sides of the fraction.
    """
    probs = aligned_logits.float().softmax(dim=-1)
    labelled = masks.sum(dim=2, keepdim=True)
    area, covered, overlap = masks.sum(dim=1), (probs * labelled).sum(dim=1), (probs * masks).sum(dim=1)  # (B, K)
    if pooling == "batch":
        area, covered, overlap = (part.sum(dim=0, keepdim=True) for part in (area, covered, overlap))
    present = area > 0
    return _pooled_mean((1.0 - (2 * overlap + eps) / (covered + area + eps)) * present, present.float(), pooling)


def _pooled_mean(sums: Tensor, weights: Tensor, pooling: Literal["clip", "batch"]) -> Tensor:
    """Sum over weight of (B, n), for all together or first within each clip; 0 if nothing has weight."""
    if pooling == "batch":
        sums, weights = sums.reshape(1, -1), weights.reshape(1, -1)
    weight = weights.sum(dim=1)
    means = sums.sum(dim=1) / torch.where(weight > 0, weight, 1.0)
    return means.sum() / (weight > 0).sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    matching: Literal["soft", "iou"],
    pixel: Literal["cross_entropy", "focal"],
    pooling: Literal["clip", "batch"],
) -> SegmentationLoss:
    """Match, align and compare: logits (B, N, K) against label masks (B, N, K)."""
    aligned = align_logits(logits, match_labels(logits, masks, matching))
    return SegmentationLoss(
        pixel=pixel_loss(aligned, masks, pooling, gamma=2.0 if pixel == "focal" else 0.0),
        dice=dice_loss(aligned, masks, pooling),
    )


def relabel(labels: Tensor) -> Tensor:
    """Arbitrary ids (B, ...) -> consecutive labels 0 ... M-1 per clip in the order of the ids; negative stay -1."""
    flat = labels.flatten(1)
    out = torch.full_like(flat, IGNORE)
    for clip, clip_out in zip(flat, out, strict=True):
        kept = clip >= 0
        clip_out[kept] = clip[kept].unique(return_inverse=True)[1]
    return out.view_as(labels)
