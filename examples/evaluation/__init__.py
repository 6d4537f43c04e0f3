"""Evaluation of trajectories: pure functions on integer id maps."""

from .trajectory_metrics import (
    adjusted_rand_index,
    evaluate_clip,
    foreground_adjusted_rand_index,
    mean_best_iou,
    stq_en,
    summarise,
    video_entity_quality,
)

__all__ = [
    "adjusted_rand_index",
    "evaluate_clip",
    "foreground_adjusted_rand_index",
    "mean_best_iou",
    "stq_en",
    "summarise",
    "video_entity_quality",
]
