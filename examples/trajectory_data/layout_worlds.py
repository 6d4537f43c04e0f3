"""Layout `worlds`, our own: what `make_worlds.py` writes and the easiest to look into.

    NAME.mp4                    the video
    NAME_masks/00000.png ...    one palette PNG per frame: 0 background, 1..254 objects, 255 nobody knows
    NAME.json                   everything else (captions, questions, attributes)

In:   such a folder     Out: ClipRecord     From: the disk     To: clip_dataset
"""

from pathlib import Path

from .clip_files import (
    masks_in,
    read_annotated_video,
    read_json,
    read_masks,
    videos_of,
    write_clip_video,
    write_json,
    write_mask,
)
from .clip_record import ClipRecord


def find_names(folder: Path) -> list[str]:
    """All videos, if at least one has a folder of masks."""
    names = videos_of(folder)
    return names if any((folder / f"{name}_masks").is_dir() for name in names) else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the folder."""
    masks = folder / f"{name}_masks"
    mask_paths = masks_in(masks)
    metadata = read_json(folder / f"{name}.json", "the record of the clip")
    indices, frames, times_s = read_annotated_video(folder / f"{name}.mp4", len(mask_paths), num_frames, masks)
    ids = read_masks([mask_paths[i] for i in indices], frames.shape[1:3])
    return ClipRecord(name, frames, ids, times_s, metadata)


def write(record: ClipRecord, folder: Path) -> None:
    """One clip into the folder."""
    masks = folder / f"{record.name}_masks"
    masks.mkdir(parents=True, exist_ok=True)
    for left_over in masks.iterdir():
        left_over.unlink()
    for index, mask in enumerate(record.trajectory_ids):
        write_mask(masks / f"{index:05d}.png", mask)
    write_json(folder / f"{record.name}.json", record.metadata)
    write_clip_video(record, folder / f"{record.name}.mp4")
