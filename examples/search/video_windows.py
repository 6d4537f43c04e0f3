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

from modeling_trajtok.processors import FrameTimeline, VideoDecodeError, decode_video, sample_frame_indices

SHORTEST_TAIL = 0.25  # of a window; what remains of a video beyond its last full window belongs to that one if shorter
WINDOWS_PER_READ = 8
BYTES_PER_READ = 1 << 28


@dataclass
class VideoWindow:
    """Some frames of a stretch of a video.

    Attributes:
        start_s: seconds after the first frame of the video at which the stretch begins.
        end_s: the same for its end, which is the start of the next one or the end of the video.
        frames_uint8: (T, H_px, W_px, 3) RGB.
        frame_indices: (T,) int64, position in the video.
        frame_times_s: (T,) float64, seconds after the first frame of the video.
    """

    start_s: float
    end_s: float
    frames_uint8: np.ndarray
    frame_indices: np.ndarray
    frame_times_s: np.ndarray


def window_edges(total_num_frames: int, source_fps: float | None, window_seconds: float) -> np.ndarray:
    """Where windows begin: (W + 1,) int64 frame numbers, the last being the number of frames.

    The length is counted in frames of the average rate. A video without a rate is one window.
    """
    if source_fps is None:
        return np.array([0, total_num_frames])
    per_window = window_seconds * source_fps
    count = max(1, math.ceil(total_num_frames / per_window - SHORTEST_TAIL))
    # The first frame at or after each full window; a hair back, so that 4 s at 25 fps is frame 100 despite rounding.
    starts = np.ceil(np.arange(count) * per_window - 1e-6).astype(np.int64)
    return np.append(np.unique(starts[starts < total_num_frames]), total_num_frames)


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
        window_seconds: length of a window; the last one takes what remains.
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
    edges, first, count = None, 0, 1  # the first window tells how large the frames are
    while edges is None or first < len(edges) - 1:
        chosen = []

        def choose_frames(timeline: FrameTimeline, chosen=chosen, first=first, count=count) -> np.ndarray:
            nonlocal edges
            total = timeline.total_num_frames
            if edges is None:
                edges = window_edges(total, timeline.fps, window_seconds)
            if edges[-1] != total:
                raise VideoDecodeError(
                    f"{edges[-1]} frames were found first, now {total}; write the file anew with ffmpeg"
                )
            some = edges[first : first + count + 1].tolist()
            chosen[:] = [start + sample(end - start) for start, end in pairwise(some)]
            # Edges are read for their times.
            return np.unique(np.concatenate([*chosen, some[:-1], [min(some[-1], total - 1)]])).astype(np.int64)

        video = decode_video(source, choose_frames, timeout_s=timeout_s, backend=backend)
        yield [_window(video, edges[first + number :][:2], indices) for number, indices in enumerate(chosen)]
        first += count
        bytes_per_window = video.frames_uint8[0].nbytes * (num_frames + 1)
        count = min(WINDOWS_PER_READ, max(1, BYTES_PER_READ // bytes_per_window))


def _window(video, edges: np.ndarray, indices: np.ndarray) -> VideoWindow:
    last = video.total_num_frames - 1
    positions = np.searchsorted(video.frame_indices, indices)
    start_s, end_s = video.frame_times_s[np.searchsorted(video.frame_indices, np.minimum(edges, last))].tolist()
    if edges[1] > last and video.source_fps is not None:
        end_s += 1 / video.source_fps  # how long the last frame is shown
    return VideoWindow(start_s, end_s, video.frames_uint8[positions], indices, video.frame_times_s[positions])
