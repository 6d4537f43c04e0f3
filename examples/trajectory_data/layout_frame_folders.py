"""Layout `frame_folders`: DAVIS-2017, MOSE, YouTube-VOS, and the many data sets that follow them.

    JPEGImages/NAME/00000.jpg ...     the frames; DAVIS has one more folder "480p" (or "Full-Resolution") in between
    Annotations/NAME/00000.png ...    one palette PNG per frame: 0 background, 1..254 objects, 255 nobody knows

In:   such a folder     Out: ClipRecord (times for 24 fps)     From: the disk     To: clip_dataset
"""

from pathlib import Path

from .clip_files import masks_in, read_annotated_pictures, read_masks
from .clip_record import ClipRecord


def find_names(folder: Path) -> list[str]:
    """All folders of frames."""
    pictures = folder / "JPEGImages" / _resolution(folder)
    if not pictures.is_dir() or not (folder / "Annotations").is_dir():
        return []
    return sorted(path.name for path in pictures.iterdir() if path.is_dir())


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the folder."""
    resolution = _resolution(folder)
    masks = folder / "Annotations" / resolution / name
    mask_paths = masks_in(masks)
    pictures = folder / "JPEGImages" / resolution / name
    indices, frames, times_s = read_annotated_pictures(pictures, num_frames, masks)
    ids = read_masks([mask_paths[i] for i in indices], frames.shape[1:3])
    return ClipRecord(name, frames, ids, times_s)


def _resolution(folder: Path) -> str:
    for resolution in ("480p", "Full-Resolution"):
        if (folder / "JPEGImages" / resolution).is_dir():
            return resolution
    return ""
