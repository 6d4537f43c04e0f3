"""Which frames are looked at."""

import numpy as np
import pytest

from modeling_trajtok.processors.frame_sampling import SAMPLING_STRATEGIES, sample_frame_indices


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
        ({"total_num_frames": 0, "num_frames": 4}, "0 frames"),
        ({"total_num_frames": 9, "num_frames": 0}, "at least 1, got 0"),
        ({"total_num_frames": 9}, "got None"),
        ({"total_num_frames": 9, "strategy": "fps", "fps": 2}, "rate of the source, got None"),
        ({"total_num_frames": 9, "strategy": "fps", "fps": -2, "source_fps": 9}, "got -2"),
        ({"total_num_frames": 9, "strategy": "fps", "fps": 2, "source_fps": 9, "num_frames": 3}, "num_frames=3"),
        ({"total_num_frames": 9, "strategy": "midle", "num_frames": 3}, "'midle'.*middle"),
    ],
)
def test_bad_numbers_are_refused_with_the_number(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frame_indices(**arguments)
