"""The objects that a world's clip tells of, and the trajectories that cover them.

In:   the metadata of a clip; trajectory ids and masks of objects on the patch grid
Out:  WorldObject by WorldObject; the best trajectory of each object and its IoU
To:   caption_evaluation, training.contrastive_training, training.caption_views
"""

import torch.nn.functional as F
from torch import Tensor
from worlds import WorldObject

# An object whose mask overlaps no trajectory by more than this (IoU) was not found by the segmenter.
FOUND_IOU = 0.3


def world_objects(metadata: dict) -> list[WorldObject]:
    """The objects that the metadata of a world's clip tell of; none for other clips."""
    return [WorldObject(**one) for one in metadata.get("objects", [])]


def trajectories_of_objects(
    trajectory_ids: Tensor, object_masks: Tensor, num_trajectories: int
) -> tuple[Tensor, Tensor]:
    """The trajectory that overlaps each object most.

    Args:
        trajectory_ids: (M, N) trajectory of each patch in the object's clip, -1 = none.
        object_masks: (M, N) the object's patches.
        num_trajectories: K.

    Returns:
        Trajectory (M,) and its IoU with the object (M,).
    """
    trajectories = F.one_hot(trajectory_ids + 1, num_trajectories + 1)[..., 1:].float()
    masks = object_masks.float().unsqueeze(2)
    overlap = (trajectories * masks).sum(dim=1)
    union = trajectories.sum(dim=1) + masks.sum(dim=1) - overlap
    iou, best = (overlap / union.clamp(min=1)).max(dim=1)
    return best, iou
