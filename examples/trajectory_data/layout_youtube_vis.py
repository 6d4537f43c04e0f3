"""Layout `youtube_vis`: YouTube-VIS, OVIS and others with all annotations in one COCO-like file.

    instances.json                    `videos`: [{"id", "file_names": ["NAME/00000.jpg", ...], "height", "width"}],
                                      `annotations`: [{"video_id", "segmentations": [run-length code or null, ...]}]
    JPEGImages/NAME/00000.jpg ...     the frames

A clip's name is the folder of its frames. Annotation m of a video becomes trajectory id m + 1; where objects overlap,
the smaller is seen.

In:   such a folder     Out: ClipRecord (times for 24 fps)     From: the disk     To: clip_dataset
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeling_trajtok.processors.trajectory_maps import decode_coco_rle

from .clip_files import FPS_OF_PICTURES, naming, paint_masks, read_json, read_pictures, spaced_indices
from .clip_record import ClipRecord

ANNOTATIONS = "instances.json"


class AnnotatedVideo(NamedTuple):
    """Pictures of a video, and of each object its masks: a run-length code for each picture, or None."""

    pictures: tuple[str, ...]
    objects: list[list[dict | None]]


def find_names(folder: Path) -> list[str]:
    """All videos of the annotations."""
    path = folder / ANNOTATIONS
    if not path.is_file() or not (folder / "JPEGImages").is_dir():
        return []
    return sorted(_videos(path, path.stat().st_mtime_ns))


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the folder."""
    path = folder / ANNOTATIONS
    video = _videos(path, path.stat().st_mtime_ns)[name]
    for number, codes in enumerate(video.objects):
        if len(codes) != len(video.pictures):
            raise ValueError(
                f"{path}: object {number} of {name} has {len(codes)} masks for {len(video.pictures)} frames, expected "
                "one for each, or null."
            )
    indices = spaced_indices(len(video.pictures), num_frames)
    frames = read_pictures([folder / "JPEGImages" / video.pictures[index] for index in indices])
    ids = np.zeros(frames.shape[:3], dtype=np.int16)
    for frame_ids, index in zip(ids, indices, strict=True):
        with naming(path):
            masks = {
                number: decode_coco_rle(codes[index])
                for number, codes in enumerate(video.objects, start=1)
                if codes[index] is not None
            }
        paint_masks(frame_ids, masks, path)
    return ClipRecord(name, frames, ids, indices / FPS_OF_PICTURES)


@lru_cache(maxsize=2)
def _videos(path: Path, _changed: int) -> dict[str, AnnotatedVideo]:
    """What the file says, by the name of the video; read again when the file has changed."""
    content = read_json(path, "the annotations of all clips")
    with naming(path):
        by_id = {
            entry["id"]: (Path(entry["file_names"][0]).parent.as_posix(), tuple(entry["file_names"]))
            for entry in content["videos"]
        }
        videos = {name: AnnotatedVideo(pictures, []) for name, pictures in by_id.values()}
        for entry in content["annotations"]:
            videos[by_id[entry["video_id"]][0]].objects.append(entry["segmentations"])
    return videos
