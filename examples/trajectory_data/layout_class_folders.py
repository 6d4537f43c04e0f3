"""Layout `class_folders`: a folder of videos for each class, as classification data sets are unpacked.

    CLASS/NAME.mp4        the videos, in any format that can be decoded; two classes at least, and no list beside them

In:   such a folder     Out: ClipRecord with metadata["label"]     From: the disk     To: clip_dataset
"""

from pathlib import Path

import numpy as np

from modeling_trajtok.processors.frame_decoding import decode_video

from .clip_files import VIDEO_SUFFIXES, spaced_indices
from .clip_record import ClipRecord


def find_names(folder: Path) -> list[str]:
    """All videos as CLASS/NAME.mp4."""
    if any(folder.glob("*.json*")):
        return []
    names = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.with_suffix(".json").exists()
    ]
    return names if len({name.split("/")[0] for name in names}) > 1 else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One video and its class."""
    video = decode_video(folder / name, lambda timeline: spaced_indices(timeline.total_num_frames, num_frames))
    unknown = np.full(video.frames_uint8.shape[:3], -1, dtype=np.int16)
    return ClipRecord(name, video.frames_uint8, unknown, video.frame_times_s, {"label": name.split("/")[0]})
