"""Frame sampling: which frames of a video are looked at?

In:   the timeline of the source, and what is wanted (a number of frames, a rate, or all)
Out:  frame indices (T,) int64, strictly ascending, inside [0, total_num_frames)
From: frame_decoding (which knows the timeline)     To: frame_decoding (which keeps only these frames)
Official: "middle" is the original's sampling: the middle frame of each of `num_frames` equal segments.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import numpy as np

SAMPLING_STRATEGIES = ("middle", "uniform", "fps", "all")
MILLISECOND_S = 1e-3


@dataclass(frozen=True, eq=False)
class FrameTimeline:
    """When each frame of a video is shown.

    Attributes:
        total_num_frames: frames in the source.
        frame_times_s: (total_num_frames,) float64, seconds after the first frame, ascending; None if nobody knows.
        duration_s: seconds from the first frame until the last one disappears; None for a still picture, or if nobody
            knows.
    """

    total_num_frames: int
    frame_times_s: np.ndarray | None = None
    duration_s: float | None = None

    @classmethod
    def at_rate(cls, total_num_frames: int, fps: float | None) -> FrameTimeline:
        """The timeline of frames that follow each other at a constant rate (frames per second; None: no times)."""
        if fps is None:
            return cls(total_num_frames)
        if not _is_positive(fps):
            raise ValueError(f"The rate of a source must be above 0 frames per second, got {fps!r}.")
        return cls(total_num_frames, np.arange(total_num_frames) / fps, total_num_frames / fps)

    @property
    def fps(self) -> float | None:
        """Average frames per second; None for a still picture, or if nobody knows the times."""
        return self.total_num_frames / self.duration_s if self.duration_s else None


def _is_positive(value: object) -> bool:
    return isinstance(value, numbers.Real) and 0 < value < math.inf


def sample_frame_indices(
    timeline: FrameTimeline | int,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    source_fps: float | None = None,
    strategy: str = "uniform",
) -> np.ndarray:
    """Choose frame indices; pure function, the same answer for the same numbers.

    Args:
        timeline: of the source, or its number of frames, at least 1.
        num_frames: frames wanted by "middle" and "uniform". A source with fewer frames gives all of its frames.
        fps: frames per second wanted by "fps". Above the rate of the source every frame is taken once.
        source_fps: rate of the source in frames per second, needed by "fps" when `timeline` is only a number.
        strategy: "middle" takes the middle of each of `num_frames` equal segments, "uniform" spreads from the first
            to the last frame, "fps" takes the frame shown at 0, 1/fps, 2/fps, ... seconds by the time stamps of the
            source (a frame that is shown for longer is taken once), "all" takes every frame.

    Returns:
        (T,) int64 indices, strictly ascending.

    Raises:
        ValueError: no frames in the source, an unknown strategy, or a number that the strategy needs is missing,
            superfluous or not positive.
    """
    if strategy not in SAMPLING_STRATEGIES:
        raise ValueError(f"Unknown sampling strategy {strategy!r}; expected one of {', '.join(SAMPLING_STRATEGIES)}.")
    if not isinstance(timeline, FrameTimeline):
        timeline = FrameTimeline.at_rate(timeline, source_fps)
    elif source_fps is not None:
        raise ValueError(f"Got a timeline and source_fps={source_fps}; the timeline has the times already.")
    total = timeline.total_num_frames
    if total < 1:
        raise ValueError(f"Cannot sample from {total} frames; expected a source with at least 1 frame.")
    if strategy == "all":
        return np.arange(total, dtype=np.int64)
    if strategy == "fps":
        return _indices_at_rate(timeline, fps, num_frames)
    if not isinstance(num_frames, numbers.Integral) or num_frames < 1:
        raise ValueError(f"Sampling {strategy!r} needs num_frames, a whole number of at least 1, got {num_frames!r}.")
    if num_frames >= total:
        return np.arange(total, dtype=np.int64)
    if strategy == "uniform":
        return np.linspace(0, total - 1, num_frames).round().astype(np.int64)
    edges = np.linspace(0, total, num_frames + 1).astype(np.int64)
    return (edges[:-1] + edges[1:] - 1) // 2


def _indices_at_rate(timeline: FrameTimeline, fps: float | None, num_frames: int | None) -> np.ndarray:
    if num_frames is not None:
        raise ValueError(f"Got num_frames={num_frames} and fps={fps}; pass one of the two.")
    if not _is_positive(fps):
        raise ValueError(f"Sampling by 'fps' needs fps above 0, got {fps!r}.")
    if timeline.frame_times_s is None or timeline.duration_s is None:
        raise ValueError(
            f"Sampling at {fps} fps needs the times or the rate of the source, and nobody knows them. "
            'Pass video_metadata=[{"fps": ...}] for frames in memory, or sample by num_frames.'
        )
    times_s = timeline.frame_times_s
    # A hair forward, so that a frame whose time stamp was rounded up is still the one shown at its own tick: Matroska,
    # WebM and FLV keep whole milliseconds.
    whole_ms = np.allclose(times_s, np.round(times_s, 3), rtol=0, atol=1e-9)
    hair_s = min(MILLISECOND_S if whole_ms else 1e-6, timeline.duration_s / timeline.total_num_frames / 4)
    # The ticks at which each frame is on show: from its own time stamp to that of the next frame.
    edges_s = np.append(times_s, max(timeline.duration_s, times_s[-1]))
    first_ticks = np.ceil((edges_s - hair_s) * fps).clip(min=0)
    return np.flatnonzero(np.diff(first_ticks)).astype(np.int64)
