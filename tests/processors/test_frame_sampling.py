"""Which frames are looked at."""

import numpy as np
import pytest

from modeling_trajtok.processors.frame_sampling import SAMPLING_STRATEGIES, FrameTimeline, sample_frame_indices


def test_middle_is_the_middle_of_each_segment():
    assert sample_frame_indices(32, num_frames=4, strategy="middle").tolist() == [3, 11, 19, 27]
    # Edges 0, 3, 6, 10: segments of 3, 3 and 4 frames.
    assert sample_frame_indices(10, num_frames=3, strategy="middle").tolist() == [1, 4, 7]


def test_uniform_runs_from_first_to_last():
    assert sample_frame_indices(11, num_frames=3, strategy="uniform").tolist() == [0, 5, 10]


@pytest.mark.parametrize("source_fps", [10.0, 24.0, 29.97, 30000 / 1001, 60.0])
@pytest.mark.parametrize("fps", [0.5, 1.0, 7.0])
def test_fps_takes_the_frame_shown_at_each_tick(fps, source_fps):
    indices = sample_frame_indices(300, fps=fps, source_fps=source_fps, strategy="fps")
    ticks = np.arange(len(indices)) / fps
    shown_from, shown_until = indices / source_fps, (indices + 1) / source_fps
    assert (shown_from <= ticks + 1e-6).all() and (ticks < shown_until).all()
    assert len(indices) / fps >= 300 / source_fps


def test_fps_of_the_source_is_every_frame_once():
    for fps in (30, 100):
        indices = sample_frame_indices(50, fps=fps, source_fps=30, strategy="fps")
        assert indices.tolist() == list(range(50))


def test_fps_goes_by_time_stamps():
    """Half a second of movement, a picture held for 4.5 s, half a second of movement."""
    times_s = np.array([*(0.1 * np.arange(6)), *(5 + 0.1 * np.arange(6))])
    timeline = FrameTimeline(12, times_s, 5.6)
    assert timeline.fps == pytest.approx(12 / 5.6)
    for fps in (0.5, 1, 4, 7):
        ticks_s = np.arange(np.ceil(5.6 * fps)) / fps
        shown = {max(i for i, time_s in enumerate(times_s) if time_s <= tick_s + 1e-9) for tick_s in ticks_s}
        assert sample_frame_indices(timeline, fps=fps, strategy="fps").tolist() == sorted(shown)
    assert sample_frame_indices(timeline, fps=50, strategy="fps").tolist() == list(range(12))


def test_rounded_time_stamps_do_not_lose_frames():
    timeline = FrameTimeline(60, np.round(np.arange(60) / 30, 3), 2.0)
    assert sample_frame_indices(timeline, fps=30, strategy="fps").tolist() == list(range(60))
    assert sample_frame_indices(timeline, fps=10, strategy="fps").tolist() == list(range(0, 60, 3))


def test_a_timeline_without_times_has_no_rate():
    assert FrameTimeline.at_rate(5, None).fps is None and FrameTimeline(1, np.zeros(1)).fps is None
    assert sample_frame_indices(FrameTimeline(5), num_frames=2).tolist() == [0, 4]
    with pytest.raises(ValueError, match="nobody knows"):
        sample_frame_indices(FrameTimeline(5), fps=1, strategy="fps")


@pytest.mark.parametrize("strategy", SAMPLING_STRATEGIES)
@pytest.mark.parametrize("total", [1, 2, 15, 16, 17, 1000])
def test_indices_ascend_and_lie_inside(strategy, total):
    wanted = {"fps": {"fps": 3, "source_fps": 25.0}}.get(strategy, {"num_frames": 16})
    indices = sample_frame_indices(total, strategy=strategy, **wanted)
    assert indices.dtype == np.int64 and indices[0] >= 0 and indices[-1] < total
    assert (np.diff(indices) > 0).all()
    if strategy in ("middle", "uniform"):
        assert len(indices) == min(16, total)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeline": 0, "num_frames": 4}, "0 frames"),
        ({"timeline": 9, "num_frames": 0}, "at least 1, got 0"),
        ({"timeline": 9}, "got None"),
        ({"timeline": 9, "num_frames": "3"}, "whole number of at least 1, got '3'"),
        ({"timeline": 9, "strategy": "fps", "fps": float("nan"), "source_fps": 9}, "got nan"),
        ({"timeline": 9, "strategy": "fps", "fps": 2, "source_fps": float("inf")}, "per second, got inf"),
        ({"timeline": 9, "strategy": "fps", "fps": 2}, "rate of the source, and nobody knows"),
        ({"timeline": 9, "strategy": "fps", "fps": -2, "source_fps": 9}, "got -2"),
        ({"timeline": 9, "strategy": "fps", "fps": 2, "source_fps": 9, "num_frames": 3}, "num_frames=3"),
        ({"timeline": 9, "strategy": "fps", "fps": 2, "source_fps": 0}, "above 0 frames per second, got 0"),
        ({"timeline": FrameTimeline(9), "fps": 2, "source_fps": 5}, "a timeline and source_fps=5"),
        ({"timeline": 9, "strategy": "midle", "num_frames": 3}, "'midle'.*middle"),
    ],
)
def test_bad_numbers_are_refused_with_the_number(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frame_indices(**arguments)
