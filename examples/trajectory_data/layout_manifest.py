"""Layout `manifest`, in which the original lists videos with captions; masks may lie beside the videos.

    manifest.json     [{"video": "a/1.mp4", "caption": "a dog runs"}, ...]; a caption may be a list of captions, and
                      an image goes under "image". Paths are relative to the folder.
    a/1.mp4           the video, in any format that can be decoded
    a/1_mask.npz      as in the layout `sidecars`, both may be absent: then nobody knows the trajectories (-1)
    a/1_graph.npz

In:   such a folder     Out: ClipRecord with metadata["captions"]     From: the disk     To: clip_dataset
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from modeling_trajtok.processors.frame_decoding import decode_video

from . import layout_sidecars
from .clip_files import naming, read_json, require, spaced_indices
from .clip_record import ClipRecord

MANIFEST = "manifest.json"


def find_names(folder: Path) -> list[str]:
    """The videos that the manifest lists, in its order."""
    return list(_captions(folder / MANIFEST)) if (folder / MANIFEST).is_file() else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the manifest."""
    path = require(folder / name, "the video that the manifest lists")
    metadata = {"captions": list(_captions(folder / MANIFEST)[name])}
    stem = Path(name).with_suffix("").as_posix()
    if (folder / f"{stem}_mask.npz").is_file():
        clip = layout_sidecars.read(folder, stem, num_frames, video=path)
        clip.metadata.update(metadata)
        return clip
    video = decode_video(path, lambda timeline: spaced_indices(timeline.total_num_frames, num_frames))
    unknown = np.full(video.frames_uint8.shape[:3], -1, dtype=np.int16)
    return ClipRecord(name, video.frames_uint8, unknown, video.frame_times_s, metadata)


@lru_cache(maxsize=8)
def _captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Captions of each video; a video that is listed twice has those of both entries."""
    content = read_json(path, "a list of videos with captions")
    if not isinstance(content, list):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected a list of entries with video and caption."
        )
    found = {}
    for number, entry in enumerate(content):
        with naming(path):
            name = entry["video"] if "video" in entry else entry["image"]
            captions = entry["caption"]
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise ValueError(
                f"{path}, entry {number} ({name}): the caption is {captions!r}, expected a text or several."
            )
        found[name] = (*found.get(name, ()), *captions)
    return found
