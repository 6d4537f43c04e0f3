"""Layout `sidecars`, that of the original TrajTok code: segments per frame, and a graph that links them over time.

    NAME.mp4          the video
    NAME_mask.npz     array (T, H_px, W_px): segment of each pixel, numbered anew in each frame; 0 = background
    NAME_graph.npz    array `tensor` (M, T): which segment of frame t is trajectory m; 0 = not there
    NAME.json         everything else, may be absent

A segment that belongs to no trajectory is background. Row m of the graph becomes trajectory id m + 1.

In:   such a folder     Out: ClipRecord     From: the disk     To: clip_dataset
"""

from pathlib import Path

import numpy as np

from .clip_files import (
    check_mask_size,
    read_annotated_video,
    read_array,
    read_metadata_if_any,
    refuse_unknown_pixels,
    videos_of,
    write_array,
    write_clip_video,
    write_json,
)
from .clip_record import ClipRecord


def find_names(folder: Path) -> list[str]:
    """All videos, if at least one has segments and no manifest lists them."""
    names = [] if (folder / "manifest.json").is_file() else videos_of(folder)
    return names if any((folder / f"{name}_mask.npz").is_file() for name in names) else []


def read(folder: Path, name: str, num_frames: int | None, video: Path | None = None) -> ClipRecord:
    """One clip of the folder; ``video`` if it is not called NAME.mp4."""
    mask_path, graph_path = folder / f"{name}_mask.npz", folder / f"{name}_graph.npz"
    segments = read_array(mask_path, "mask", "the segments of each frame")
    graph = read_array(graph_path, "tensor", "the segment of each trajectory in each frame")
    for path, array, ndim in ((mask_path, segments, 3), (graph_path, graph, 2)):
        if array.ndim != ndim or not np.issubdtype(array.dtype, np.integer) or (array.size and array.min() < 0):
            raise ValueError(f"{path}: expected {ndim} axes of integers from 0 up, got {array.shape} {array.dtype}.")
    if graph.shape[1] != len(segments):
        raise ValueError(f"{graph_path} links {graph.shape[1]} frames, but {mask_path} has {len(segments)}.")
    indices, frames, times_s = read_annotated_video(
        video or folder / f"{name}.mp4", len(segments), num_frames, mask_path
    )
    check_mask_size(mask_path, segments.shape[1:], frames.shape[1:3])
    ids = ids_from_graph(segments[indices], graph[:, indices])
    return ClipRecord(name, frames, ids, times_s, read_metadata_if_any(folder, name))


def write(record: ClipRecord, folder: Path) -> None:
    """One clip into the folder.

    Raises:
        ValueError: if the clip has pixels that nobody knows, which this layout cannot say.
    """
    refuse_unknown_pixels(record)
    path = folder / record.name
    path.parent.mkdir(parents=True, exist_ok=True)
    segments, graph = graph_from_ids(record.trajectory_ids)
    write_array(Path(f"{path}_mask.npz"), "arr_0", segments)
    write_array(Path(f"{path}_graph.npz"), "tensor", graph)
    write_json(folder / f"{record.name}.json", record.metadata)
    write_clip_video(record, folder / f"{record.name}.mp4")


def ids_from_graph(segments: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """Trajectory ids (T, H, W) from segments (T, H, W) and their graph (M, T)."""
    trajectory_of = np.zeros((len(segments), max(segments.max(initial=0), graph.max(initial=0)) + 1), dtype=np.int64)
    rows, times = np.nonzero(graph)
    trajectory_of[times, graph[rows, times]] = rows + 1
    return trajectory_of[np.arange(len(segments))[:, None, None], segments]


def graph_from_ids(trajectory_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `ids_from_graph`: segments (T, H, W) uint16, numbered 1, 2, ... per frame, and graph (M, T)."""
    segments = np.zeros(trajectory_ids.shape, dtype=np.uint16)
    graph = np.zeros((trajectory_ids.max(), len(trajectory_ids)), dtype=np.int64)
    for time, frame_ids in enumerate(trajectory_ids):
        present = np.unique(frame_ids[frame_ids > 0])
        graph[present - 1, time] = np.arange(1, present.size + 1)
        segments[time][frame_ids > 0] = np.searchsorted(present, frame_ids[frame_ids > 0]) + 1
    return segments, graph
