"""How well do predicted trajectories agree with the true ones? One clip in, numbers from 0 to 1 out.

In:   prediction, ground_truth  (T, H, W) integer id maps of one clip, axes time, row, column
Out:  scores on the scale 0-1 (never percent; ARI falls below 0 when worse than chance)
From: TrajTokModel (`trajectory_ids`), post_process_trajectories (`labels`), trajectory_data (ClipRecord)
To:   training's held-out evaluation, tables in README

Meaning of an id, everywhere in this file:
    prediction    1, 2, ... trajectories, constant over the clip; 0 = belongs to no trajectory.
                  The model counts from 0 with -1 = none, so pass `ids + 1`; a negative id is refused.
    ground truth  1, 2, ... objects; 0 = background; negative = nobody knows: such pixels are left out of everything.
The numbers themselves carry no meaning: renumbering either map changes no score.

All scores but those of outlines come from one table: how many pixels of the clip have predicted id p and true id g.
The "space-time IoU" of two trajectories is |both| / |either|, counted over all frames at once. Scores are per clip;
`summarise` averages them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class _OverlapTable:
    """`pixels[p, g]`: number of pixels whose predicted id is `prediction_ids[p]` and true id `ground_truth_ids[g]`."""

    pixels: np.ndarray
    prediction_ids: np.ndarray
    ground_truth_ids: np.ndarray

    def without(self, ignore_id: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Intersections and unions (P, G) in pixels of all pairs of trajectories; `ignore_id` is none of them."""
        sizes_p, sizes_g = self.pixels.sum(axis=1), self.pixels.sum(axis=0)
        unions = sizes_p[:, None] + sizes_g[None, :] - self.pixels
        kept = np.ix_(self.prediction_ids != ignore_id, self.ground_truth_ids != ignore_id)
        return self.pixels[kept], unions[kept]


def adjusted_rand_index(prediction: np.ndarray, ground_truth: np.ndarray, ignore_id: int | None = None) -> float:
    """Agreement of two groupings over all pairs of pixels, corrected for chance (Hubert and Arabie, 1985).

    Args:
        prediction: (T, H, W) predicted ids; 0 counts as one more group.
        ground_truth: (T, H, W) true ids; 0 counts as one more group.
        ignore_id: pixels with this true id are left out.

    Returns:
        1 for the same grouping, about 0 for a random one. NaN if no pixel is left.
    """
    return _adjusted_rand_index(_overlap_table(prediction, ground_truth), ignore_id)


def foreground_adjusted_rand_index(prediction: np.ndarray, ground_truth: np.ndarray, background_id: int = 0) -> float:
    """FG-ARI: the adjusted Rand index of the whole clip as one table, over the pixels of true objects only.

    What is predicted on the background has no influence. On a clip with a single object it is 0 or 1 and says little.

    Args:
        prediction: (T, H, W) predicted ids.
        ground_truth: (T, H, W) true ids.
        background_id: the true id that is no object.

    Returns:
        1 if the objects are told apart perfectly in all frames. NaN if there is no object.
    """
    return adjusted_rand_index(prediction, ground_truth, ignore_id=background_id)


def mean_best_iou(prediction: np.ndarray, ground_truth: np.ndarray, ignore_id: int | None = 0) -> float:
    """For each true trajectory the space-time IoU with the predicted trajectory that fits best, then the plain mean.

    Each true trajectory counts the same, however large. One prediction may serve several; surplus ones cost nothing.

    Args:
        prediction: (T, H, W) predicted ids.
        ground_truth: (T, H, W) true ids.
        ignore_id: the id that is no trajectory, in both maps.

    Returns:
        0-1. NaN if there is no true trajectory.
    """
    return _mean_best_iou(_overlap_table(prediction, ground_truth), ignore_id)


def video_entity_quality(
    prediction: np.ndarray, ground_truth: np.ndarray, ignore_id: int | None = 0, iou_threshold: float = 0.5
) -> dict[str, float]:
    """VEQ: panoptic quality of space-time tubes without classes.

    True and predicted trajectories are paired one to one (Hungarian, most IoU above the threshold). A pair with
    space-time IoU >= `iou_threshold` is a true positive, an unpaired prediction a false positive, an unpaired true
    trajectory a false negative.

    Args:
        prediction: (T, H, W) predicted ids.
        ground_truth: (T, H, W) true ids.
        ignore_id: the id that is no trajectory, in both maps; its pixels still count in the unions of the others.
        iou_threshold: least IoU of a match.

    Returns:
        `veq_sq` = mean IoU of the matches, `veq_rq` = TP / (TP + FP/2 + FN/2), `veq` = their product.
        All 0 without a match, also when there was nothing to find.
    """
    return _video_entity_quality(_overlap_table(prediction, ground_truth), ignore_id, iou_threshold)


def stq_en(
    prediction: np.ndarray, ground_truth: np.ndarray, ignore_id: int | None = 0, iou_threshold: float = 0.5
) -> dict[str, float]:
    """STQ-EN: segmentation and tracking quality of entities, over the matches of `video_entity_quality`.

    Trajectories without a match have no influence (VEQ counts them), which sets it apart from the STQ of STEP (2021).

    Args:
        prediction: (T, H, W) predicted ids.
        ground_truth: (T, H, W) true ids.
        ignore_id: the id that is no trajectory, in both maps; its pixels still count in the unions of the others.
        iou_threshold: least IoU of a match.

    Returns:
        `sq` = mean IoU of the matches (each counts the same), `aq` = pixels in their intersections / pixels in their
        unions (large ones count more), `stq_en` = sqrt(sq * aq). All 0 without a match.
    """
    return _stq_en(_overlap_table(prediction, ground_truth), ignore_id, iou_threshold)


def region_and_boundary(
    prediction: np.ndarray, ground_truth: np.ndarray, ignore_id: int | None = 0
) -> dict[str, float]:
    """J&F of DAVIS (Perazzi et al., 2016) for the predicted trajectory that fits each true one best.

    J is the mean over frames of the IoU of the two masks, F that of the F-measure of their outlines, which may lie
    0.8 % of the picture's diagonal apart; a frame in which neither has a pixel counts 1. The trajectory is chosen by
    its space-time IoU, knowing the truth: an upper bound on what a tracker that starts from a given mask can reach.

    Args:
        prediction: (T, H, W) predicted ids.
        ground_truth: (T, H, W) true ids, negative = left out.
        ignore_id: the id that is no trajectory, in both maps.

    Returns:
        `j`, `f` and `j_and_f` = their mean, each the mean over true trajectories. NaN if there is none.
    """
    table = _overlap_table(prediction, ground_truth)
    intersections, unions = table.without(ignore_id)
    candidates = table.prediction_ids[table.prediction_ids != ignore_id]
    objects = table.ground_truth_ids[table.ground_truth_ids != ignore_id]
    if not len(objects):
        return dict.fromkeys(("j", "f", "j_and_f"), float("nan"))
    known, scores = ground_truth >= 0, []
    for place, true_id in enumerate(objects):
        found = np.zeros_like(known)
        if intersections[:, place].any():
            found = (prediction == candidates[np.argmax(intersections[:, place] / unions[:, place])]) & known
        frames = list(zip(found, ground_truth == true_id, known, strict=True))
        scores.append([np.mean([measure(*frame) for frame in frames]) for measure in (_mask_iou, _outline_f_measure)])
    j, f = np.mean(scores, axis=0)
    return {"j": float(j), "f": float(f), "j_and_f": float((j + f) / 2)}


def _mask_iou(found: np.ndarray, true: np.ndarray, _known: np.ndarray) -> float:
    union = (found | true).sum()
    return float((found & true).sum() / union) if union else 1.0


def _outline_f_measure(found: np.ndarray, true: np.ndarray, known: np.ndarray) -> float:
    """Harmonic mean of the shares of either outline (H, W) that lie near the other; unknown pixels have no outline."""
    outlines = [mask & ~binary_erosion(mask | ~known, border_value=1) for mask in (found, true)]
    if not any(outline.any() for outline in outlines):
        return 1.0 if found.any() == true.any() else 0.0
    if not all(outline.any() for outline in outlines):
        return 0.0
    reach = np.ceil(0.008 * np.hypot(*true.shape))
    near = [distance_transform_edt(~outline) <= reach for outline in outlines]
    precision, recall = near[1][outlines[0]].mean(), near[0][outlines[1]].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def evaluate_clip(prediction: np.ndarray, ground_truth: np.ndarray) -> dict[str, float]:
    """All scores of one clip, with 0 as background, from one pass over the pixels.

    Args:
        prediction: (T, H, W) predicted ids, 0 = none.
        ground_truth: (T, H, W) true ids, 0 = background, negative = left out.

    Returns:
        `fg_ari`, `ari`, `mean_best_iou`, `veq`, `veq_sq`, `veq_rq`, `stq_en`, `sq`, `aq`; those of outlines take
        longer and are apart, in `region_and_boundary`.
    """
    table = _overlap_table(prediction, ground_truth)
    return {
        "fg_ari": _adjusted_rand_index(table, 0),
        "ari": _adjusted_rand_index(table, None),
        "mean_best_iou": _mean_best_iou(table, 0),
        **_video_entity_quality(table, 0, 0.5),
        **_stq_en(table, 0, 0.5),
    }


def summarise(clip_scores: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Average over clips: each clip counts the same, a clip where a score is undefined (NaN) does not count in it.

    Args:
        clip_scores: one dict per clip, as from `evaluate_clip`.

    Returns:
        `{score: {"mean": ..., "count": number of clips behind it}}`; the mean of no clip is NaN.

    Raises:
        ValueError: if there is no clip, or if two clips have different scores.
    """
    if not clip_scores:
        raise ValueError("Expected the scores of at least one clip, got none. Was the data set empty?")
    names = list(clip_scores[0])
    for index, scores in enumerate(clip_scores):
        if set(scores) != set(names):
            raise ValueError(f"Clip {index} has the scores {sorted(scores)}, clip 0 has {sorted(names)}.")
    summary = {}
    for name in names:
        values = np.array([scores[name] for scores in clip_scores], dtype=np.float64)
        values = values[~np.isnan(values)]
        summary[name] = {"mean": float(values.mean()) if values.size else float("nan"), "count": int(values.size)}
    return summary


def _adjusted_rand_index(table: _OverlapTable, ignore_id: int | None) -> float:
    pixels = table.pixels[:, table.ground_truth_ids != ignore_id].astype(np.float64)
    total = pixels.sum()
    if total == 0:
        return float("nan")

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    pairs_both, pairs_p, pairs_g = pairs(pixels), pairs(pixels.sum(axis=1)), pairs(pixels.sum(axis=0))
    by_chance = pairs_p * pairs_g / max(pairs(total), 1.0)
    at_best = (pairs_p + pairs_g) / 2
    if at_best == by_chance:  # both maps are one group, or both have every pixel alone: the same grouping
        return 1.0
    return (pairs_both - by_chance) / (at_best - by_chance)


def _mean_best_iou(table: _OverlapTable, ignore_id: int | None) -> float:
    intersections, unions = table.without(ignore_id)
    if intersections.shape[1] == 0:
        return float("nan")
    return float((intersections / unions).max(axis=0, initial=0.0).mean())


def _video_entity_quality(table: _OverlapTable, ignore_id: int | None, iou_threshold: float) -> dict[str, float]:
    intersections, unions = _matches(table, ignore_id, iou_threshold)
    matched = intersections.size
    if matched == 0:
        return {"veq": 0.0, "veq_sq": 0.0, "veq_rq": 0.0}
    num_predicted = int((table.prediction_ids != ignore_id).sum())
    num_true = int((table.ground_truth_ids != ignore_id).sum())
    segmentation = float((intersections / unions).mean())
    recognition = 2 * matched / (num_predicted + num_true)  # TP + FP/2 + FN/2 is half of both counts together
    return {"veq": segmentation * recognition, "veq_sq": segmentation, "veq_rq": recognition}


def _stq_en(table: _OverlapTable, ignore_id: int | None, iou_threshold: float) -> dict[str, float]:
    intersections, unions = _matches(table, ignore_id, iou_threshold)
    if intersections.size == 0:
        return {"stq_en": 0.0, "sq": 0.0, "aq": 0.0}
    segmentation = float((intersections / unions).mean())
    association = float(intersections.sum() / unions.sum())
    return {"stq_en": float(np.sqrt(segmentation * association)), "sq": segmentation, "aq": association}


def _matches(table: _OverlapTable, ignore_id: int | None, iou_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions in pixels, each (M,), of the M one-to-one pairs with IoU >= `iou_threshold`."""
    intersections, unions = table.without(ignore_id)
    iou = intersections / unions
    # The small bonus lets a pair that sits exactly on the threshold win over no pair at all.
    gain = np.where(iou >= iou_threshold, iou - iou_threshold + 1e-9, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    matched = iou[rows, columns] >= iou_threshold
    rows, columns = rows[matched], columns[matched]
    return intersections[rows, columns], unions[rows, columns]


def _overlap_table(prediction: np.ndarray, ground_truth: np.ndarray) -> _OverlapTable:
    """Count the pixels of each pair of ids; those without ground truth (negative id) are left out.

    Raises:
        ValueError: for maps that are not (T, H, W) integers of one shape, or a negative predicted id.
    """
    prediction, ground_truth = np.asarray(prediction), np.asarray(ground_truth)
    for name, ids in (("prediction", prediction), ("ground_truth", ground_truth)):
        if ids.ndim != 3 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"{name} must be a (T, H, W) map of integer ids, got shape {ids.shape}, dtype {ids.dtype}."
            )
    if prediction.shape != ground_truth.shape:
        raise ValueError(
            f"prediction {prediction.shape} and ground_truth {ground_truth.shape} differ in shape. "
            "Bring the ids to one size first, by nearest neighbour."
        )
    known = ground_truth >= 0
    prediction, ground_truth = prediction[known].astype(np.int64), ground_truth[known].astype(np.int64)
    if prediction.size and prediction.min() < 0:
        raise ValueError(
            f"prediction has the negative id {prediction.min()}, expected 0 = no trajectory, 1, 2, ... trajectories. "
            "The model counts from 0 with -1 = none: pass `ids + 1`."
        )
    prediction_ids, rows = _compacted(prediction)
    ground_truth_ids, columns = _compacted(ground_truth)
    shape = (prediction_ids.size, ground_truth_ids.size)
    pixels = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
    return _OverlapTable(pixels, prediction_ids, ground_truth_ids)


def _compacted(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct values of non-negative `ids` (n,), and for each of the n the position of its value."""
    if ids.size == 0 or ids.max() >= 2**16:
        return np.unique(ids, return_inverse=True)
    present = np.bincount(ids) > 0  # counting instead of sorting: a tenth of the time for ordinary id maps
    return np.flatnonzero(present), (np.cumsum(present) - 1)[ids]
