"""Pictures of trajectories: exact on a picture of 8 x 8 pixels, and true in general."""

import av
import numpy as np
import pytest
import torch

from modeling_trajtok.processors import decode_video
from modeling_trajtok.processors.trajectory_drawing import (
    COLOUR_OF_NONE,
    NUM_COLOURS,
    contact_sheet,
    draw_overlay,
    trajectory_colours,
    write_video,
)
from modeling_trajtok.processors.trajectory_maps import TrajectoryMap

WHITE, DARK = 255, 24


def map_of(labels: np.ndarray) -> TrajectoryMap:
    labels = np.asarray(labels, dtype=np.int16)
    return TrajectoryMap(labels, np.arange(len(labels)) / 4, np.arange(len(labels)))


@pytest.fixture
def tiny() -> tuple[np.ndarray, TrajectoryMap]:
    """One frame of 8 x 8: trajectory 0 above trajectory 1, and one column on the right that belongs to none."""
    labels = np.zeros((1, 8, 8), dtype=np.int16)
    labels[0, 4:] = 1
    labels[0, :, 7] = -1
    return np.full((1, 8, 8, 3), 100, dtype=np.uint8), map_of(labels)


@pytest.fixture
def clip() -> tuple[np.ndarray, TrajectoryMap]:
    """Three frames of 90 x 160: a square of id 12 wanders over id 3, no border is unlabelled."""
    labels = np.full((3, 90, 160), 3)
    for time in range(3):
        labels[time, 20:70, 20 + 30 * time : 70 + 30 * time] = 12
    return np.random.default_rng(0).integers(0, 256, (3, 90, 160, 3), dtype=np.uint8), map_of(labels)


def test_a_colour_belongs_to_an_id_alone():
    table = trajectory_colours(np.arange(NUM_COLOURS))
    assert table.shape == (NUM_COLOURS, 3)
    assert table.dtype == np.uint8
    some = np.array([5, 0, 99, 5])
    np.testing.assert_array_equal(trajectory_colours(some), table[some])
    np.testing.assert_array_equal(trajectory_colours(np.array([NUM_COLOURS + 5])), table[[5]])
    np.testing.assert_array_equal(trajectory_colours(np.array([-1])), [COLOUR_OF_NONE])


def test_colours_differ_from_each_other_and_more_so_those_of_small_and_of_successive_ids():
    table = trajectory_colours(np.arange(NUM_COLOURS)).astype(int)
    distance = np.linalg.norm(table[:, None] - table, axis=-1) + 1000 * np.eye(NUM_COLOURS)
    assert distance.min() > 15
    assert distance[:16, :16].min() > 60
    assert np.diagonal(distance, offset=1).min() > 40


def test_the_table_of_colours_does_not_change_between_versions():
    """Pictures of two versions can be compared. If this is wanted otherwise, say so in the changelog."""
    ids = np.array([0, 7, 127])
    assert trajectory_colours(ids).tolist() == [[230, 159, 0], [157, 20, 78], [0, 216, 216]]


def test_fill_is_the_mix_of_picture_and_colour(tiny):
    frames, trajectory_map = tiny
    painted = draw_overlay(frames, trajectory_map, alpha=0.5, outlines=False, labels=False)
    zero, one = (100 + trajectory_colours(np.arange(2)).astype(int)) // 2
    expected = np.empty((8, 8, 3))
    expected[:4], expected[4:], expected[:, 7] = zero, one, 100
    np.testing.assert_array_equal(painted[0], expected)


def test_outlines_lie_where_labels_change_and_nowhere_else(tiny):
    frames, trajectory_map = tiny
    painted = draw_overlay(frames, trajectory_map, alpha=0.0, labels=False)[0]
    expected = np.full((8, 8), 100)
    expected[4, :7] = DARK  # below the line between 0 and 1
    expected[:, 7] = DARK  # right of the line to "none"
    expected[3, :7] = WHITE
    expected[:, 6] = WHITE
    np.testing.assert_array_equal(painted, np.repeat(expected[..., None], 3, axis=-1))


def test_alpha_goes_from_the_video_to_plain_colours(tiny):
    frames, trajectory_map = tiny
    settings = {"outlines": False, "labels": False}
    np.testing.assert_array_equal(draw_overlay(frames, trajectory_map, alpha=0.0, **settings), frames)
    plain = draw_overlay(frames, trajectory_map, alpha=1.0, **settings)
    np.testing.assert_array_equal(plain[0, 0, 0], trajectory_colours(np.array([0]))[0])


def test_the_same_id_has_the_same_colour_in_every_frame_and_clip(clip):
    frames, trajectory_map = clip
    settings = {"alpha": 1.0, "outlines": False, "labels": False}
    whole = draw_overlay(frames, trajectory_map, **settings)
    alone = draw_overlay(frames[1:2, :, 40:], map_of(trajectory_map.labels[1:2, :, 40:]), **settings)
    for painted, labels in ((whole, trajectory_map.labels), (alone, trajectory_map.labels[1:2, :, 40:])):
        for trajectory in (3, 12):
            colours = np.unique(painted[labels == trajectory], axis=0)
            np.testing.assert_array_equal(colours, trajectory_colours(np.array([trajectory])))


def test_the_inputs_stay_as_they_are(clip):
    frames, trajectory_map = clip
    frames.setflags(write=False)
    trajectory_map.labels.setflags(write=False)
    frames_before, labels_before = frames.copy(), trajectory_map.labels.copy()
    draw_overlay(frames, trajectory_map)
    contact_sheet(frames, trajectory_map)
    np.testing.assert_array_equal(frames, frames_before)
    np.testing.assert_array_equal(trajectory_map.labels, labels_before)


def test_ids_are_written_inside_their_region_and_only_where_there_is_room(clip):
    frames, trajectory_map = clip
    with_ids = draw_overlay(frames, trajectory_map, outlines=False)
    without = draw_overlay(frames, trajectory_map, outlines=False, labels=False)
    written = (with_ids != without).any(axis=-1)
    for time in range(3):
        for trajectory in (3, 12):
            assert written[time][trajectory_map.labels[time] == trajectory].any()
        rows, columns = np.nonzero(written[time] & (trajectory_map.labels[time] == 12))
        assert abs(rows.mean() - 44.5) < 3
        assert abs(columns.mean() - (44.5 + 30 * time)) < 3  # in the middle of the square
    small = np.where(np.arange(160) % 8 < 4, 1, 2) * np.ones((1, 90, 1), dtype=int)  # stripes of 4 px
    striped = map_of(small)
    np.testing.assert_array_equal(draw_overlay(frames[:1], striped), draw_overlay(frames[:1], striped, labels=False))


def test_numbers_keep_calm_while_their_region_moves_a_little(clip):
    frames, _ = clip
    labels = np.full((3, 90, 160), -1)
    for time in range(3):
        labels[time, 20:70, 20 + 4 * time : 70 + 4 * time] = 5
    black = np.zeros_like(frames)
    written = (draw_overlay(black, map_of(labels), alpha=0.0, outlines=False) > 0).any(axis=-1)
    assert written[0].any()
    np.testing.assert_array_equal(written[1], written[0])


def test_a_map_without_any_trajectory_leaves_the_video_alone(clip):
    frames, trajectory_map = clip
    nothing = map_of(np.full_like(trajectory_map.labels, -1))
    np.testing.assert_array_equal(draw_overlay(frames, nothing), frames)


def test_the_contact_sheet_shows_source_overlay_and_ids(clip):
    frames, trajectory_map = clip
    sheet = np.asarray(contact_sheet(frames, trajectory_map, max_columns=2, column_width_px=160))
    source = frames[0].astype(int)
    tops = [
        (row, column)
        for row in range(sheet.shape[0] - 90)
        for column in range(sheet.shape[1] - 160)
        if (sheet[row, column] == source[0, 0]).all()
        and (sheet[row : row + 90, column : column + 160] == source).all()
    ]
    assert len(tops) == 1  # the first frame is there as it is, once
    row, column = tops[0]
    second = column + 164
    np.testing.assert_array_equal(sheet[row : row + 90, second : second + 160], frames[2])  # then the last frame
    assert sheet.shape[1] == second + 160 + 4
    ids_row = sheet[row + 2 * 94 : row + 2 * 94 + 90, column : column + 160]
    np.testing.assert_array_equal(ids_row[2, 2], trajectory_colours(np.array([3]))[0])
    np.testing.assert_array_equal(ids_row[25, 25], trajectory_colours(np.array([12]))[0])


@pytest.mark.parametrize(("height", "width"), [(90, 160), (45, 33)])
def test_a_video_keeps_its_frames_at_even_sizes(tmp_path, clip, height, width):
    frames = draw_overlay(*clip, alpha=1.0)[:, :height, :width]
    write_video(tmp_path / "clip.mp4", frames, fps=29.97)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(29.97, abs=1e-3)
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
    assert found.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(found[:, :height, :width].astype(int) - frames).mean() < 6


def test_a_video_shows_its_frames_at_their_times(tmp_path, clip):
    frames, times_s = (
        np.concatenate([draw_overlay(*clip, alpha=1.0)] * 3),
        np.array([2.0, 2.1, 2.2, 6.7, 6.8, 6.9, 7.0, 7.1, 7.2]),
    )
    write_video(tmp_path / "clip.mp4", frames, fps=10, frame_times_s=times_s)
    found = decode_video(tmp_path / "clip.mp4")
    np.testing.assert_allclose(found.frame_times_s, times_s - 2.0, atol=1e-4)
    assert found.duration_s == pytest.approx(5.3, abs=1e-3)
    assert np.abs(found.frames_uint8.astype(int) - frames).mean() < 6
    for wrong in (times_s[:3], times_s[::-1], np.full(9, np.nan)):
        with pytest.raises(ValueError, match="frame_times_s must be 9 rising numbers of seconds"):
            write_video(tmp_path / "clip.mp4", frames, fps=10, frame_times_s=wrong)


def test_what_does_not_fit_is_refused(tmp_path, clip):
    frames, trajectory_map = clip
    with pytest.raises(ValueError, match=r"\(2, 90, 160, 3\) and the labels \(3, 90, 160\).* do not fit"):
        draw_overlay(frames[:2], trajectory_map)
    with pytest.raises(ValueError, match="alpha must be from 0"):
        draw_overlay(frames, trajectory_map, alpha=50)
    with pytest.raises(ValueError, match="uint8"):
        draw_overlay(frames / 255, trajectory_map)
    with pytest.raises(ValueError, match="columns with a width"):
        contact_sheet(frames, trajectory_map, max_columns=0)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "clip.mp4", frames[:0], fps=8)
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        write_video(tmp_path / "clip.mp4", frames, fps=0)
    for fps, message in (("10", "fps must be positive, got '10'"), (1e9, "fps must be from 0.001 to 1000")):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "clip.mp4", frames, fps=fps)
    with pytest.raises(ValueError, match="crf must be a whole number from 0"):
        write_video(tmp_path / "clip.mp4", frames, fps=8, crf=99)
    with pytest.raises(ValueError, match=r"trajectory_map must be a TrajectoryMap, .* got list"):
        draw_overlay(frames, [trajectory_map])
    with pytest.raises(ValueError, match="got 'a'"):
        draw_overlay(frames, trajectory_map, alpha="a")
    with pytest.raises(ValueError, match=r"whole numbers above 0; got max_columns=2.5"):
        contact_sheet(frames, trajectory_map, max_columns=2.5)
    with pytest.raises(ValueError, match=r"3 columns of 562500x1000000 px .* larger than 134 million pixels"):
        contact_sheet(frames, trajectory_map, column_width_px=10**6)
    with pytest.raises(ValueError, match="ids must be whole numbers"):
        trajectory_colours([0.5])


def test_lists_tensors_and_tiny_pictures_are_drawn_as_well(clip):
    frames, trajectory_map = clip
    drawn = draw_overlay(frames, trajectory_map)
    np.testing.assert_array_equal(draw_overlay(list(frames), trajectory_map), drawn)
    np.testing.assert_array_equal(draw_overlay(torch.from_numpy(frames), trajectory_map), drawn)
    assert draw_overlay(np.zeros((1, 1, 2, 3), np.uint8), map_of(np.zeros((1, 1, 2), int))).shape == (1, 1, 2, 3)
    assert trajectory_colours([]).shape == (0, 3)
