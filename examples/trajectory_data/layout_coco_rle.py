"""Layout `coco_rle`, that of SA-V: each object's mask in each frame as COCO run-length code.

    NAME.mp4                                the video
    NAME_manual.json or NAME_auto.json      `masklet`: a list over frames of a list over objects of {"size", "counts"}
    NAME.json                               everything else, may be absent

SA-V has masks for every fourth frame only: then a clip consists of these frames. If both JSON files are there, the one
made by people is read. Object m of the list becomes trajectory id m + 1; where objects overlap, the smaller is seen.

In:   such a folder     Out: ClipRecord     From: the disk     To: clip_dataset
"""

from pathlib import Path

import numpy as np

from modeling_trajtok.processors.trajectory_maps import decode_coco_rle, encode_coco_rle

from .clip_files import (
    naming,
    paint_masks,
    read_annotated_video,
    read_json,
    read_metadata_if_any,
    refuse_unknown_pixels,
    videos_of,
    write_clip_video,
    write_json,
)
from .clip_record import ClipRecord

SA_V_STRIDE = 4  # masks at 6 fps for video at 24 fps


def find_names(folder: Path) -> list[str]:
    """All videos, if at least one has masklets."""
    names = videos_of(folder)
    return names if any(path.is_file() for name in names for path in _annotations(folder, name)) else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the folder."""
    manual, automatic = _annotations(folder, name)
    path = manual if manual.is_file() else automatic
    annotation = read_json(path, "the masklets of the clip")
    if not isinstance(annotation, dict) or not isinstance(annotation.get("masklet"), list):
        raise ValueError(f"{path} has no list `masklet`, only {list(annotation)}.")
    masklet = annotation["masklet"]
    indices, frames, times_s = read_annotated_video(
        folder / f"{name}.mp4", len(masklet), num_frames, path, strides=(1, SA_V_STRIDE)
    )
    ids = _ids_from_masklet(path, [masklet[i] for i in indices], frames.shape[1:3])
    return ClipRecord(name, frames, ids, times_s, read_metadata_if_any(folder, name))


def write(record: ClipRecord, folder: Path) -> None:
    """One clip into the folder.

    Raises:
        ValueError: if the clip has pixels that nobody knows, which this layout cannot say.
    """
    refuse_unknown_pixels(record)
    num_frames, height, width = record.trajectory_ids.shape
    objects = range(1, record.trajectory_ids.max() + 1)
    masklet = [
        [encode_coco_rle(frame_ids == trajectory) for trajectory in objects] for frame_ids in record.trajectory_ids
    ]
    manual, _ = _annotations(folder, record.name)
    manual.parent.mkdir(parents=True, exist_ok=True)
    annotation = {
        "video_id": record.name,
        "video_frame_count": num_frames,
        "video_height": height,
        "video_width": width,
        "masklet_id": list(range(len(objects))),
        "masklet_num": len(objects),
        "masklet": masklet,
    }
    write_json(manual, annotation)
    write_json(folder / f"{record.name}.json", record.metadata)
    write_clip_video(record, folder / f"{record.name}.mp4")


def _annotations(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}_manual.json", folder / f"{name}_auto.json"


def _ids_from_masklet(path: Path, masklet: list[list[dict]], size_hw: tuple[int, int]) -> np.ndarray:
    """Trajectory ids (T, H, W) of the frames in `masklet`."""
    ids = np.zeros((len(masklet), *size_hw), dtype=np.int16)
    for frame_ids, codes in zip(ids, masklet, strict=True):
        with naming(path):
            masks = {number: decode_coco_rle(code) for number, code in enumerate(codes, start=1)}
        paint_masks(frame_ids, masks, path)
    return ids
