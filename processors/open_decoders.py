"""Open decoders: videos that somebody opened with torchcodec before, as `datasets` does for its rows.

In:   a torchcodec VideoDecoder, a callback that chooses frames, one that watches the clock
Out:  DecodedVideo: only the chosen frames are kept
From: video_processing_trajtok     To: video_processing_trajtok
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .decoder_backends import DecodedVideo
from .frame_sampling import FrameTimeline
from .video_sources import VideoDecodeError

FRAMES_PER_CALL = 8


def read_open_decoder(
    decoder: Any,
    choose_frames: Callable[[FrameTimeline], np.ndarray],
    check_time: Callable[[], None],
    *,
    by_time_stamps: bool,
) -> DecodedVideo:
    """Read the chosen frames, with the stream, size and order of axes that the decoder was opened with.

    Args:
        decoder: a torchcodec VideoDecoder.
        choose_frames: called with the timeline; returns frame indices, ascending. Called again if the rate varies.
        check_time: called between a few frames; raises when time is up.
        by_time_stamps: whether the choice depends on times. The decoder tells the time of a frame only with the
            frame: where the rate turns out to vary, all frames are then decoded once to learn their times.

    Raises:
        VideoDecodeError: the decoder fails.
    """
    facts = decoder.metadata
    timeline = FrameTimeline.at_rate(len(decoder), getattr(facts, "average_fps", None) or None)
    try:
        indices = choose_frames(timeline)
        frames, times_s = _read(decoder, indices, check_time)
        start_s = getattr(facts, "begin_stream_seconds", None)
        start_s = float(decoder.get_frame_at(0).pts_seconds) if start_s is None else start_s
        times_s -= start_s
        frame_s = 1 / timeline.fps if timeline.fps else 0.0
        if by_time_stamps and np.abs(times_s - indices * frame_s).max() > frame_s / 2:
            timeline = _scanned_timeline(decoder, facts, start_s, check_time)
            indices = choose_frames(timeline)
            frames, times_s = _read(decoder, indices, check_time)
            times_s -= start_s
    except (RuntimeError, IndexError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise VideoDecodeError(f"cannot be decoded by the decoder that was passed ({message})") from error
    return DecodedVideo(
        frames_uint8=frames,
        frame_indices=indices,
        frame_times_s=times_s,
        source_fps=timeline.fps,
        duration_s=timeline.duration_s,
        total_num_frames=timeline.total_num_frames,
        backend="torchcodec",
    )


def _read(decoder: Any, indices: np.ndarray, check_time: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H_px, W_px, 3) uint8 and their time stamps (T,) in seconds."""
    frames, times_s = [], []
    for start in range(0, len(indices), FRAMES_PER_CALL):
        check_time()
        batch = decoder.get_frames_at(indices[start : start + FRAMES_PER_CALL].tolist())
        frames.append(_bytes_rgb_last(batch.data))
        times_s.extend(batch.pts_seconds.tolist())
    return np.concatenate(frames), np.array(times_s, dtype=np.float64)


def _bytes_rgb_last(data: torch.Tensor) -> np.ndarray:
    """Whatever order of axes and type the decoder gives → (T, H_px, W_px, 3) uint8."""
    if data.is_floating_point():
        data = (data * 255).round().clamp(0, 255).to(torch.uint8)
    return (data if data.shape[-1] == 3 else data.movedim(1, -1)).cpu().numpy()


def _scanned_timeline(decoder: Any, facts: Any, start_s: float, check_time: Callable[[], None]) -> FrameTimeline:
    times_s, total = [], len(decoder)
    for start in range(0, total, FRAMES_PER_CALL):
        check_time()
        batch = decoder.get_frames_at(list(range(start, min(start + FRAMES_PER_CALL, total))))
        times_s.extend((batch.pts_seconds - start_s).tolist())
        last_frame_s = float(batch.duration_seconds[-1])
    end_s = getattr(facts, "end_stream_seconds", None)
    duration_s = times_s[-1] + last_frame_s if end_s is None else end_s - start_s
    return FrameTimeline(total, np.array(times_s), max(duration_s, times_s[-1]))
