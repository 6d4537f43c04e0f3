"""Windows: a video of any length as short clips, each with its time span.

In:   a video file, seconds per window, frames per window
Out:  VideoWindow (frames_uint8 (T, H_px, W_px, 3), indices, times, span in seconds), few of them in memory at a time
To:   clip_embedding, search_videos.py, token_data
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from os import PathLike

import numpy as np

from modeling_trajtok.processors import (
    DecodedVideo,
    FrameTimeline,
    VideoDecodeError,
    decode_video,
    sample_frame_indices,
)

SHORTEST_TAIL = 0.25  # of a window; what remains of a video beyond its last full window belongs to that one if shorter
WINDOWS_PER_READ = 8
BYTES_PER_READ = 1 << 28


@dataclass
class VideoWindow:
    """Some frames of a stretch of a video.

    Attributes:
        start_s: seconds after the first frame of the video at which the stretch's first frame appears.
        end_s: when that of the next stretch appears, or the video ends.
        frames_uint8: (T, H_px, W_px, 3) RGB.
        frame_indices: (T,) int64, position in the video.
        frame_times_s: (T,) float64, seconds after the first frame of the video.
    """

    start_s: float
    end_s: float
    frames_uint8: np.ndarray
    frame_indices: np.ndarray
    frame_times_s: np.ndarray


def window_edges(timeline: FrameTimeline, window_seconds: float) -> np.ndarray:
    """Where windows begin: (W + 1,) int64 frame numbers, the last being the number of frames.

    A window has the frames that appear within its seconds, by their time stamps. Where a picture is held beyond its
    window, the windows in which nothing appears belong to that one. A video without times is one window.
    """
    total, times_s, duration_s = timeline.total_num_frames, timeline.frame_times_s, timeline.duration_s
    if times_s is None or duration_s is None:
        return np.array([0, total])
    count = max(1, math.ceil(duration_s / window_seconds - SHORTEST_TAIL))
    # A hair back, so that 4 s at 25 fps is frame 100 despite rounding; containers may round to milliseconds.
    hair_s = min(1e-3, duration_s / total / 4)
    starts = np.searchsorted(times_s, np.arange(1, count) * window_seconds - hair_s)
    return np.unique([0, *starts, total])


def read_windows(
    source: str | PathLike | bytes,
    window_seconds: float,
    num_frames: int,
    strategy: str,
    *,
    timeout_s: float,
    backend: str = "auto",
) -> Iterator[list[VideoWindow]]:
    """Read a video window by window, some at a time, so that memory does not grow with its duration.

    Args:
        source: a video file, or its bytes.
        window_seconds: length of a window by the time stamps; the last one takes what remains.
        num_frames: at most so many frames of each window are kept.
        strategy: how they are chosen, as in `sample_frame_indices`.
        timeout_s: seconds after which one reading is given up.
        backend: that decodes, as in `decode_video`.

    Yields:
        The next windows, in order.

    Raises:
        VideoDecodeError: the file cannot be read, or one reading finds more frames than another.
    """
    sample = partial(sample_frame_indices, num_frames=num_frames, strategy=strategy)
    edges, spans_s, first, count = None, None, 0, 1  # the first window tells how large the frames are
    while edges is None or first < len(edges) - 1:
        chosen = []

        def choose_frames(timeline: FrameTimeline, chosen=chosen, first=first, count=count) -> np.ndarray:
            nonlocal edges, spans_s
            total = timeline.total_num_frames
            if first == 0:  # the last timeline is right if the decoder finds another one on the way
                edges = window_edges(timeline, window_seconds)
                spans_s = _times_of(edges, timeline)
            if edges[-1] != total:
                raise VideoDecodeError(
                    f"{edges[-1]} frames were found first, now {total}; write the file anew with ffmpeg"
                )
            chosen[:] = [start + sample(end - start) for start, end in pairwise(edges[first:][: count + 1].tolist())]
            return np.concatenate(chosen).astype(np.int64)

        video = decode_video(source, choose_frames, timeout_s=timeout_s, backend=backend)
        yield [
            _window(video, spans_s[first + number :][:2].tolist(), indices) for number, indices in enumerate(chosen)
        ]
        first += count
        bytes_per_window = video.frames_uint8[0].nbytes * num_frames
        count = min(WINDOWS_PER_READ, max(1, BYTES_PER_READ // bytes_per_window))


def _times_of(edges: np.ndarray, timeline: FrameTimeline) -> np.ndarray:
    """Seconds at which windows begin, (W + 1,), the last being the end of the video."""
    if timeline.frame_times_s is None:
        return np.zeros(len(edges))
    times_s = timeline.frame_times_s
    return np.append(times_s[edges[:-1]], times_s[-1] if timeline.duration_s is None else timeline.duration_s)


def _window(video: DecodedVideo, span_s: list[float], indices: np.ndarray) -> VideoWindow:
    positions = np.searchsorted(video.frame_indices, indices)
    return VideoWindow(*span_s, video.frames_uint8[positions], indices, video.frame_times_s[positions])
