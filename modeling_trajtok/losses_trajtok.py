"""Segmentation losses: how well do the predicted trajectories agree with given ones?

In:   assignment logits (B, N, K), labels (B, N) in 0 ... M-1 with -1 = ignore, M <= K
Out:  matching (B, K) and scalar losses
From: segmenter_trajtok     To: training
Official: hungarian.py
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import is_scipy_available, requires_backends

if is_scipy_available():
    from scipy.optimize import linear_sum_assignment

IGNORE = -1


class SegmentationLoss(NamedTuple):
    """The pixel loss and the Dice loss, both scalars."""

    pixel: Tensor
    dice: Tensor


def label_masks(labels: Tensor, num_trajectories: int) -> Tensor:
    """Labels (B, N) -> indicator of each label (B, N, K) in fp32; ignored patches belong to none."""
    return F.one_hot(labels + 1, num_trajectories + 1)[..., 1:].float()


@torch.no_grad()
def match_labels(
    logits: Tensor, labels: Tensor, cost: Literal["soft", "iou"] = "soft", label_valid: Tensor | None = None
) -> Tensor:
    """Hungarian matching of labels with predicted trajectories.

    Args:
        logits: (B, N, K).
        labels: (B, N), -1 = ignore.
        cost: "soft": Dice and cross-entropy cost of the soft masks. "iou": minus the IoU of label and hard assignment
            (the original's cost, which cannot tell apart trajectories that win no patch).
        label_valid: (B, K), False for labels that are padding; labels without a patch match anything either way.

    Returns:
        (B, K): entry m is the trajectory matched to label m; a permutation of 0 ... K-1.
    """
    requires_backends(match_labels, "scipy")
    num_trajectories = logits.shape[-1]
    logits = logits.float()
    masks = label_masks(labels, num_trajectories)
    if cost == "iou":
        hard = F.one_hot(logits.argmax(dim=-1), num_trajectories).float()
        overlap = masks.transpose(1, 2) @ hard
        # The original counts the predictions of ignored patches in the union as well.
        union = masks.sum(dim=1).unsqueeze(2) + hard.sum(dim=1).unsqueeze(1) - overlap
        costs = -overlap / union.clamp(min=1.0)
    else:
        log_probs = logits.log_softmax(dim=-1)
        probs = log_probs.exp() * (labels != IGNORE).unsqueeze(-1)
        areas = masks.sum(dim=1).unsqueeze(2)
        dice = (2 * masks.transpose(1, 2) @ probs + 1.0) / (areas + probs.sum(dim=1).unsqueeze(1) + 1.0)
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
    aligned_logits: Tensor, labels: Tensor, pooling: Literal["clip", "batch"] = "clip", gamma: float = 2.0
) -> Tensor:
    """Focal loss over the labelled patches; ``gamma=0`` is cross-entropy.

    Args:
        aligned_logits: (B, N, K), column m stands for label m.
        labels: (B, N), -1 = ignore.
        pooling: "clip": mean over each clip, then over clips. "batch": mean over all patches, as in the original.
        gamma: focusing parameter.
    """
    labelled = labels != IGNORE
    log_prob = aligned_logits.float().log_softmax(dim=-1)
    log_prob = log_prob.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    loss = -((1.0 - log_prob.exp()) ** gamma) * log_prob if gamma else -log_prob
    return _pooled_mean(loss, labelled, pooling)


def dice_loss(
    aligned_logits: Tensor, labels: Tensor, pooling: Literal["clip", "batch"] = "clip", eps: float = 1e-6
) -> Tensor:
    """One minus the soft Dice overlap, averaged over the labels that have patches.

    Args:
        aligned_logits: (B, N, K), column m stands for label m.
        labels: (B, N), -1 = ignore.
        pooling: "clip": mean over each clip's labels, then over clips. "batch": label m of all clips is one mask, as
            in the original.
        eps: added to both sides of the fraction.
    """
    masks = label_masks(labels, aligned_logits.shape[-1])
    probs = aligned_logits.float().softmax(dim=-1) * (labels != IGNORE).unsqueeze(-1)
    area, covered, overlap = masks.sum(dim=1), probs.sum(dim=1), (probs * masks).sum(dim=1)  # (B, K)
    if pooling == "batch":
        area, covered, overlap = (part.sum(dim=0, keepdim=True) for part in (area, covered, overlap))
    return _pooled_mean(1.0 - (2 * overlap + eps) / (covered + area + eps), area > 0, pooling)


def _pooled_mean(values: Tensor, counted: Tensor, pooling: Literal["clip", "batch"]) -> Tensor:
    """Mean of the counted values (B, n), over all of them or first within each clip; 0 if none is counted."""
    if pooling == "batch":
        values, counted = values.reshape(1, -1), counted.reshape(1, -1)
    number = counted.sum(dim=1)
    means = (values * counted).sum(dim=1) / number.clamp(min=1)
    return means.sum() / (number > 0).sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    matching: Literal["soft", "iou"],
    pixel: Literal["cross_entropy", "focal"],
    pooling: Literal["clip", "batch"],
) -> SegmentationLoss:
    """Match, align and compare: logits (B, N, K) against labels (B, N), -1 = ignore."""
    aligned = align_logits(logits, match_labels(logits, labels, matching))
    return SegmentationLoss(
        pixel=pixel_loss(aligned, labels, pooling, gamma=2.0 if pixel == "focal" else 0.0),
        dice=dice_loss(aligned, labels, pooling),
    )


def relabel(labels: Tensor) -> Tensor:
    """Arbitrary ids (B, ...) -> consecutive labels 0 ... M-1 per clip in the order of the ids; negative stay -1."""
    flat = labels.flatten(1)
    out = torch.full_like(flat, IGNORE)
    for clip, clip_out in zip(flat, out, strict=True):
        kept = clip >= 0
        clip_out[kept] = clip[kept].unique(return_inverse=True)[1]
    return out.view_as(labels)
