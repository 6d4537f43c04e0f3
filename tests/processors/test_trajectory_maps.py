"""The container of trajectories per pixel, and its exports."""

import numpy as np
import pytest
import torch

from modeling_trajtok.processors.trajectory_maps import TrajectoryMap, decode_coco_rle, encode_coco_rle


@pytest.fixture
def small_map():
    labels = np.full((3, 6, 9), -1, np.int16)
    labels[0, 1:4, 2:7] = 5
    labels[1, 0, 8] = 5
    labels[1, 4:, :3] = 2
    return TrajectoryMap(labels, np.array([0.0, 0.5, 2.0]), np.array([0, 15, 60]))


def test_what_follows_from_the_labels(small_map):
    assert small_map.ids.tolist() == [2, 5]
    assert small_map.areas_px.tolist() == [[0, 6, 0], [15, 1, 0]]
    assert small_map.boxes_xyxy_px[1, 0].tolist() == [2, 1, 7, 4]
    assert small_map.boxes_xyxy_px[1, 1].tolist() == [8, 0, 9, 1]
    assert small_map.boxes_xyxy_px[0, 1].tolist() == [0, 4, 3, 6]
    assert np.isnan(small_map.boxes_xyxy_px[0, [0, 2]]).all() and np.isnan(small_map.boxes_xyxy_px[1, 2]).all()
    assert small_map.time_spans_s.tolist() == [[0.5, 0.5], [0.0, 0.5]]
    assert small_map.size_hw == (6, 9) and small_map.num_frames == 3


def test_numbers_agree_with_a_plain_count():
    labels = np.random.default_rng(0).integers(-1, 7, (4, 11, 13)).astype(np.int16)
    labels[2][labels[2] == 3] = 0
    found = TrajectoryMap(labels, np.arange(4.0), np.arange(4))
    for m, trajectory in enumerate(found.ids):
        for t in range(4):
            y, x = np.nonzero(labels[t] == trajectory)
            assert found.areas_px[m, t] == len(y)
            if len(y):
                assert found.boxes_xyxy_px[m, t].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            else:
                assert np.isnan(found.boxes_xyxy_px[m, t]).all()


def test_a_map_without_trajectories_is_empty_not_an_error():
    nothing = TrajectoryMap(np.full((2, 4, 5), -1), np.arange(2.0), np.arange(2))
    assert nothing.ids.shape == (0,) and nothing.areas_px.shape == (0, 2)
    assert nothing.boxes_xyxy_px.shape == (0, 2, 4) and nothing.time_spans_s.shape == (0, 2)
    assert nothing.to_coco_rle() == [] and nothing.to_mot_text() == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 6))}, r"\(3, 6\)"),
        ({"labels": np.zeros((3, 6, 9))}, "float64"),
        ({"labels": np.full((3, 6, 9), -2)}, r"-2\.\.-2"),
        ({"labels": np.full((3, 6, 9), 40000)}, "40000"),
        ({"frame_times_s": np.zeros(2)}, r"frame_times_s .*\(3,\); got \(2,\)"),
        ({"frame_times_s": np.array([0, 2, 1])}, "never decrease"),
        ({"frame_times_s": np.array([0, np.nan, 1])}, "finite"),
        ({"frame_indices": np.array([0, 1, 1])}, "strictly ascending"),
        ({"frame_indices": [-1, 0, 1]}, "strictly ascending from 0"),
        ({"frame_indices": [0, 0.5, 1]}, "must be whole numbers, got"),
        ({"frame_indices": ["a", "b", "c"]}, "frame_indices must be whole numbers, got"),
        ({"frame_times_s": None}, "frame_times_s must be seconds, got 'None'"),
        ({"labels": [[[0], [1, 2]]]}, r"labels must be \(T, H_px, W_px\) whole numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {"labels": np.zeros((3, 6, 9), int), "frame_times_s": np.arange(3.0), "frame_indices": np.arange(3)}
    with pytest.raises(ValueError, match=message):
        TrajectoryMap(**{**parts, **change})


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (48, 64), (300, 400)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_run_lengths_are_those_of_pycocotools(size, share):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(7).random(size) < share
    if share == 0.5:  # long runs as well as short ones
        mask[:, : size[1] // 2] = True
    ours = encode_coco_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode_coco_rle(theirs), mask)
    np.testing.assert_array_equal(decode_coco_rle(ours), mask)


def test_uncompressed_runs_are_read_and_bad_ones_refused():
    np.testing.assert_array_equal(
        decode_coco_rle({"size": [2, 3], "counts": [1, 2, 3]}), [[False, True, False], [True, False, False]]
    )
    with pytest.raises(ValueError, match="2x3 = 6 pixels; got 2 runs that add up to 4"):
        decode_coco_rle({"size": [2, 3], "counts": [1, 3]})


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {"size": [2, 3]},
        {"size": [2], "counts": "4"},
        {"size": ["a", 3], "counts": "4"},
        {"size": [2, 3], "counts": None},
        {"size": [2, 3], "counts": [1.5, 4.5]},
    ],
)
def test_what_is_no_coco_mask_is_named(rle):
    with pytest.raises(ValueError, match=r'A COCO mask must be {"size"'):
        decode_coco_rle(rle)


def test_only_one_mask_is_encoded_at_a_time():
    with pytest.raises(ValueError, match=r"mask must be \(H_px, W_px\), got \(2, 3, 4\)"):
        encode_coco_rle(np.ones((2, 3, 4)))


def test_tensors_are_read_as_arrays():
    times = torch.tensor([0.0, 1.0], requires_grad=True)
    found = TrajectoryMap(torch.ones(2, 3, 4, dtype=torch.long), times, torch.tensor([0, 1]))
    assert found.ids.tolist() == [1] and found.labels.dtype == np.int16


def test_coco_export_gives_every_mask_back(small_map):
    exported = small_map.to_coco_rle()
    assert len(exported) == 2 and all(len(frames) == 3 for frames in exported)
    for trajectory, frames in zip(small_map.ids, exported, strict=True):
        for t, rle in enumerate(frames):
            np.testing.assert_array_equal(decode_coco_rle(rle), small_map.labels[t] == trajectory)


def test_mot_export_counts_frames_and_pixels_from_one(small_map):
    assert small_map.to_mot_text().splitlines() == [
        "1,5,3,2,5,3,1,-1,-1,-1",
        "16,2,1,5,3,2,1,-1,-1,-1",
        "16,5,9,1,1,1,1,-1,-1,-1",
    ]
