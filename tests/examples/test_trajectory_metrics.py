"""The scores of trajectories: the golden of the original, and maps small enough to check by eye."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from evaluation import (
    adjusted_rand_index,
    evaluate_clip,
    foreground_adjusted_rand_index,
    mean_best_iou,
    stq_en,
    summarise,
    video_entity_quality,
)
from evaluation.trajectory_metrics import region_and_boundary
from safetensors import safe_open

# Two frames of 2 x 6 pixels: background 0 and the objects 1 (8 pixels), 2 (4 pixels) and 3 (4 pixels).
GROUND_TRUTH = np.array(
    [
        [[1, 1, 0, 2, 2, 0], [1, 1, 0, 3, 3, 0]],
        [[1, 1, 0, 2, 2, 0], [1, 1, 0, 3, 3, 0]],
    ]
)


def renumbered(ids: np.ndarray, **new_ids: int) -> np.ndarray:
    """`renumbered(ids, _2=3)` is a copy with 3 wherever `ids` has 2."""
    result = ids.copy()
    for old, new in new_ids.items():
        result[ids == int(old[1:])] = new
    return result


@pytest.fixture
def golden() -> tuple[dict, dict, dict]:
    """Inputs, outputs and settings that the original computed."""
    fixtures = Path(__file__).resolve().parents[1] / "parity" / "fixtures"
    path = Path(os.environ.get("TRAJTOK_PARITY_DIR", fixtures)) / "metrics.safetensors"
    assert path.is_file(), f"{path} is missing: without it nothing shows that VEQ and STQ-EN are the original's"
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is no mapping)
        meta = json.loads(file.metadata()["meta"])
    inputs = {name.removeprefix("inputs/"): value for name, value in tensors.items() if name.startswith("inputs/")}
    outputs = {name.removeprefix("outputs/"): value for name, value in tensors.items() if name.startswith("outputs/")}
    return inputs, outputs, meta


def test_veq_and_stq_en_equal_the_original(golden):
    inputs, outputs, meta = golden
    settings = {"ignore_id": meta["ignore_id"], "iou_threshold": meta["iou_thr"]}
    ours = video_entity_quality(**inputs, **settings) | stq_en(**inputs, **settings)
    assert set(ours) == set(outputs) == {"veq", "veq_sq", "veq_rq", "stq_en", "sq", "aq"}
    for name, expected in outputs.items():
        assert ours[name] == pytest.approx(float(expected), abs=1e-6), name


def test_the_same_map_is_perfect():
    scores = evaluate_clip(GROUND_TRUTH, GROUND_TRUTH)
    assert len(scores) == 9
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_ids_are_only_names():
    prediction = renumbered(GROUND_TRUTH, _1=40, _2=1, _3=100_000)
    assert evaluate_clip(prediction, GROUND_TRUTH) == pytest.approx(evaluate_clip(GROUND_TRUTH, GROUND_TRUTH))


def test_two_objects_merged():
    scores = evaluate_clip(renumbered(GROUND_TRUTH, _3=2), GROUND_TRUTH)
    # Pairs of foreground pixels: together in both 28+6+6 = 40, in the prediction 28+28 = 56, in truth 40, of 120.
    chance = 56 * 40 / 120
    assert scores["fg_ari"] == pytest.approx((40 - chance) / ((56 + 40) / 2 - chance))
    # Objects 2 and 3 share a prediction of 8 pixels, of which each has 4: IoU 1, 1/2, 1/2.
    assert scores["mean_best_iou"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    # The merged prediction may serve only one of them: TP 2, FP 0, FN 1.
    assert scores["veq_sq"] == pytest.approx(0.75)
    assert scores["veq_rq"] == pytest.approx(2 / 2.5)
    assert scores["veq"] == pytest.approx(0.75 * 0.8)
    # Intersections 8 + 4, unions 8 + 8.
    assert scores["sq"] == pytest.approx(0.75)
    assert scores["aq"] == pytest.approx(12 / 16)


def test_one_object_split_in_time():
    prediction = GROUND_TRUTH.copy()
    prediction[1][GROUND_TRUTH[1] == 1] = 9  # object 1 gets a new id in the second frame
    scores = evaluate_clip(prediction, GROUND_TRUTH)
    # Pairs of foreground pixels: together in both and in the prediction 6+6+6+6 = 24, in truth 40, of 120.
    chance = 24 * 40 / 120
    assert scores["fg_ari"] == pytest.approx((24 - chance) / ((24 + 40) / 2 - chance))
    assert scores["mean_best_iou"] == pytest.approx((0.5 + 1 + 1) / 3)
    # One half of object 1 reaches IoU 1/2 and counts, the other is a false positive: TP 3, FP 1.
    assert scores["veq_rq"] == pytest.approx(3 / 3.5)
    assert scores["veq_sq"] == pytest.approx(2.5 / 3)
    assert scores["aq"] == pytest.approx((4 + 4 + 4) / (8 + 4 + 4))
    assert scores["stq_en"] == pytest.approx(math.sqrt(2.5 / 3 * 12 / 16))


def test_sq_weighs_objects_and_aq_weighs_pixels_alike():
    ground_truth = np.array([[[1] * 10 + [2] * 2]])
    prediction = np.array([[[1] * 6 + [0] * 4 + [2] * 2]])
    scores = stq_en(prediction, ground_truth)
    assert scores["sq"] == pytest.approx((6 / 10 + 2 / 2) / 2)
    assert scores["aq"] == pytest.approx((6 + 2) / (10 + 2))


def test_an_empty_prediction_finds_nothing():
    scores = evaluate_clip(np.zeros_like(GROUND_TRUTH), GROUND_TRUTH)
    assert scores == pytest.approx(dict.fromkeys(scores, 0.0))


def test_without_objects_the_scores_of_objects_are_undefined():
    nothing = np.zeros_like(GROUND_TRUTH)
    scores = evaluate_clip(GROUND_TRUTH, nothing)
    assert math.isnan(scores["fg_ari"])
    assert math.isnan(scores["mean_best_iou"])
    assert scores["veq"] == scores["stq_en"] == scores["ari"] == 0.0


def test_fg_ari_ignores_the_background_and_ari_does_not():
    prediction = GROUND_TRUTH.copy()
    prediction[GROUND_TRUTH == 0] = 7
    prediction[0, 0, 2] = 1
    assert foreground_adjusted_rand_index(prediction, GROUND_TRUTH) == 1.0
    assert adjusted_rand_index(prediction, GROUND_TRUTH) < 1.0
    assert adjusted_rand_index(prediction, GROUND_TRUTH, ignore_id=0) == 1.0


def test_predicted_background_is_no_trajectory():
    ground_truth = np.array([[[1, 1, 1, 0]]])
    prediction = np.array([[[0, 0, 0, 5]]])  # "no trajectory" would fit object 1 perfectly
    assert mean_best_iou(prediction, ground_truth) == 0.0
    assert video_entity_quality(prediction, ground_truth)["veq"] == 0.0


def test_ari_by_the_definition():
    """Against the sum over all pairs of pixels, written out."""
    generator = np.random.default_rng(0)
    prediction, ground_truth = generator.integers(0, 3, (2, 2, 3, 4))
    p, g = prediction.ravel(), ground_truth.ravel()
    i, j = np.triu_indices(p.size, k=1)
    same_p, same_g = p[i] == p[j], g[i] == g[j]
    both, neither = (same_p & same_g).sum(), (~same_p & ~same_g).sum()
    only_p, only_g = (same_p & ~same_g).sum(), (~same_p & same_g).sum()
    expected = 2 * (both * neither - only_p * only_g)
    expected /= (both + only_p) * (only_p + neither) + (both + only_g) * (only_g + neither)
    assert adjusted_rand_index(prediction, ground_truth) == pytest.approx(expected)


def test_the_best_pairing_wins_over_the_greedy_one():
    """Prediction 1 fits object 1 best (6/14), but leaving that to prediction 2 (4/10) frees it for object 2 (4/10)."""
    ground_truth = np.array([[[1] * 10 + [2] * 4]])
    prediction = np.array([[[2] * 4 + [1] * 6 + [1] * 4]])
    scores = video_entity_quality(prediction, ground_truth, iou_threshold=0.3)
    assert scores == pytest.approx({"veq": 0.4, "veq_sq": 0.4, "veq_rq": 1.0})


def test_a_pair_on_the_threshold_is_a_match():
    ground_truth = np.array([[[1, 1, 1, 1, 0]]])
    prediction = np.array([[[2, 2, 0, 0, 1]]])  # prediction 2 has IoU 1/2 with object 1, prediction 1 is wrong
    assert video_entity_quality(prediction, ground_truth)["veq_rq"] == pytest.approx(1 / 1.5)


def test_pixels_of_unknown_truth_are_left_out():
    ground_truth = GROUND_TRUTH.copy()
    prediction = renumbered(GROUND_TRUTH, _2=8)
    prediction[0, :, 3:5] = 30
    ground_truth[0, :, 3:5] = -1
    assert evaluate_clip(prediction, ground_truth)["veq"] == 1.0
    assert evaluate_clip(prediction, GROUND_TRUTH)["veq"] < 1.0


def test_a_prediction_that_counts_from_zero_is_refused():
    model_ids = GROUND_TRUTH - 1
    with pytest.raises(ValueError, match=r"negative id -1.*ids \+ 1"):
        evaluate_clip(model_ids, GROUND_TRUTH)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (GROUND_TRUTH[:1], r"\(1, 2, 6\).*\(2, 2, 6\) differ in shape"),
        (GROUND_TRUTH[0], "must be a \\(T, H, W\\) map"),
        (GROUND_TRUTH / 2, "float64"),
    ],
)
def test_maps_of_another_kind_are_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        evaluate_clip(prediction, GROUND_TRUTH)


def test_summary_is_the_mean_over_clips_where_a_score_is_defined():
    clips = [{"fg_ari": 0.5, "veq": 0.2}, {"fg_ari": float("nan"), "veq": 0.4}, {"fg_ari": 1.0, "veq": 0.0}]
    summary = summarise(clips)
    assert summary == {"fg_ari": {"mean": 0.75, "count": 2}, "veq": {"mean": pytest.approx(0.2), "count": 3}}


def test_a_summary_of_nothing_or_of_different_scores_is_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        summarise([])
    with pytest.raises(ValueError, match="Clip 1 has the scores"):
        summarise([{"veq": 0.1}, {"fg_ari": 0.1}])


# --- outlines --------------------------------------------------------------------------------------------------------


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    ids = np.zeros((1, 100, 100), np.int64)
    ids[0, top : top + side, left : left + side] = 1
    return ids


def test_outlines_may_lie_a_little_apart():
    """Of 100 x 100 pixels the diagonal is 141, so 2 pixels are forgiven."""
    truth = square(40, 40)
    same = region_and_boundary(truth, truth)
    assert same == {"j": 1.0, "f": 1.0, "j_and_f": 1.0}
    near, far = region_and_boundary(square(42, 40), truth), region_and_boundary(square(45, 45), truth)
    assert near["f"] == 1.0 and far["f"] < 0.5
    assert near["j"] == pytest.approx(18 * 20 / (2 * 20 * 20 - 18 * 20))
    assert near["j_and_f"] == pytest.approx((near["j"] + 1.0) / 2)


def test_the_best_trajectory_is_judged_frame_by_frame():
    """The object is there in the first of two frames; the trajectory misses nothing and is there once too often."""
    truth = np.concatenate((square(40, 40), np.zeros((1, 100, 100), np.int64)))
    always = np.concatenate((square(40, 40), square(40, 40)))
    assert region_and_boundary(always, truth) == {"j": 0.5, "f": 0.5, "j_and_f": 0.5}
    split = np.where(truth == 1, 7, 3)
    assert region_and_boundary(split, truth)["j_and_f"] == 1.0  # another number, surplus trajectories: no matter
    unknown = truth.copy()
    unknown[1] = -1
    assert region_and_boundary(always, unknown)["j_and_f"] == 1.0  # nobody knows the second frame


def test_nothing_found_and_nothing_there():
    empty = np.zeros((1, 100, 100), np.int64)
    assert region_and_boundary(empty, square(40, 40)) == {"j": 0.0, "f": 0.0, "j_and_f": 0.0}
    assert np.isnan(region_and_boundary(square(40, 40), empty)["j_and_f"])
    everything = np.ones((1, 100, 100), np.int64)
    assert region_and_boundary(everything, everything)["j_and_f"] == 1.0  # a mask as large as the picture, no outline
