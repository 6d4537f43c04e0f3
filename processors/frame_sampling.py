"""Frame sampling: which frames of a video are looked at?

In:   the number of frames of the source, and what is wanted (a number of frames, a rate, or all)
Out:  frame indices (T,) int64, strictly ascending, inside [0, total_num_frames)
From: frame_decoding (which knows the total)     To: frame_decoding (which keeps only these frames)
Official: "middle" is the original's sampling: the middle frame of each of `num_frames` equal segments.
"""

import numpy as np

SAMPLING_STRATEGIES = ("middle", "uniform", "fps", "all")


def sample_frame_indices(
    total_num_frames: int,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    source_fps: float | None = None,
    strategy: str = "uniform",
) -> np.ndarray:
    """Choose frame indices; pure function, the same answer for the same numbers.

    Args:
        total_num_frames: frames in the source, at least 1.
        num_frames: frames wanted by "middle" and "uniform". A source with fewer frames gives all of its frames.
        fps: frames per second wanted by "fps". Above `source_fps` every source frame is taken once.
        source_fps: average rate of the source in frames per second, needed by "fps".
        strategy: "middle" takes the middle of each of `num_frames` equal segments, "uniform" spreads from the first
            to the last frame, "fps" takes the frame shown at 0, 1/fps, 2/fps, ... seconds, "all" takes every frame.

    Returns:
        (T,) int64 indices, strictly ascending.

    Raises:
        ValueError: no frames in the source, an unknown strategy, or a number that the strategy needs is missing,
            superfluous or not positive.
    """
    if strategy not in SAMPLING_STRATEGIES:
        raise ValueError(f"Unknown sampling strategy {strategy!r}; expected one of {', '.join(SAMPLING_STRATEGIES)}.")
    if total_num_frames < 1:
        raise ValueError(f"Cannot sample from {total_num_frames} frames; expected a source with at least 1 frame.")
    if strategy == "all":
        return np.arange(total_num_frames, dtype=np.int64)
    if strategy == "fps":
        return _indices_at_rate(total_num_frames, fps, source_fps, num_frames)
    if num_frames is None or num_frames < 1:
        raise ValueError(f"Sampling {strategy!r} needs num_frames of at least 1, got {num_frames}.")
    if num_frames >= total_num_frames:
        return np.arange(total_num_frames, dtype=np.int64)
    if strategy == "uniform":
        return np.linspace(0, total_num_frames - 1, num_frames).round().astype(np.int64)
    edges = np.linspace(0, total_num_frames, num_frames + 1).astype(np.int64)
    return (edges[:-1] + edges[1:] - 1) // 2


def _indices_at_rate(
    total_num_frames: int, fps: float | None, source_fps: float | None, num_frames: int | None
) -> np.ndarray:
    if num_frames is not None:
        raise ValueError(f"Got num_frames={num_frames} and fps={fps}; pass one of the two.")
    if fps is None or fps <= 0:
        raise ValueError(f"Sampling by 'fps' needs fps above 0, got {fps}.")
    if source_fps is None or source_fps <= 0:
        raise ValueError(
            f"Sampling at {fps} fps needs the rate of the source, got {source_fps}. "
            'Pass video_metadata=[{"fps": ...}] for frames in memory, or sample by num_frames.'
        )
    times = np.arange(np.ceil(total_num_frames * fps / source_fps)) / fps
    # A hair forward, so that 0.1 s at 10 fps is frame 1 in spite of rounding.
    indices = np.floor(times * source_fps + 1e-6).astype(np.int64)
    return np.unique(indices[indices < total_num_frames])
