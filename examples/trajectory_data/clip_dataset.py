"""The one door: a folder in, a data set of clips out, whatever the layout of its files.

In:   a folder and, if it cannot be told from the files, the name of its layout
Out:  TrajectoryDataset of ClipRecords, read when asked for
From: the disk     To: training, evaluation
"""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import (
    layout_chat,
    layout_class_folders,
    layout_clip_folders,
    layout_coco_rle,
    layout_frame_folders,
    layout_manifest,
    layout_sidecars,
    layout_worlds,
    layout_youtube_vis,
)
from .clip_record import ClipRecord

# Each has find_names(folder) and read(folder, name, num_frames); those that can be written have write(record, folder).
LAYOUTS: dict[str, ModuleType] = {
    "worlds": layout_worlds,
    "manifest": layout_manifest,
    "chat": layout_chat,
    "sidecars": layout_sidecars,
    "coco_rle": layout_coco_rle,
    "youtube_vis": layout_youtube_vis,
    "frame_folders": layout_frame_folders,
    "clip_folders": layout_clip_folders,
    "class_folders": layout_class_folders,
}
WRITABLE_LAYOUTS = tuple(name for name, layout in LAYOUTS.items() if hasattr(layout, "write"))


@dataclass(frozen=True)
class TrajectoryDataset:
    """Clips of one folder; a clip's files are read each time it is asked for. Safe to hand to DataLoader workers.

    Attributes:
        folder: Where the clips lie.
        layout: A key of `LAYOUTS`.
        names: The clips, sorted by name; `dataset[i]` is `names[i]`.
        num_frames: At most so many evenly spaced frames per clip; None = all.
    """

    folder: Path
    layout: str
    names: tuple[str, ...]
    num_frames: int | None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> ClipRecord:
        """One clip.

        Raises:
            ValueError: names the file that is missing, damaged, or does not fit the others of its clip.
        """
        return LAYOUTS[self.layout].read(self.folder, self.names[index], self.num_frames)


def open_dataset(path: str | os.PathLike, layout: str = "auto", num_frames: int | None = None) -> TrajectoryDataset:
    """Find the clips of a folder. Nothing is decoded yet.

    Args:
        path: The folder.
        layout: A key of `LAYOUTS` (their files are described at the top of each layout_*.py), or "auto" to find out.
        num_frames: At most so many frames per clip, evenly spaced with the first and the last among them;
            None = all. Shorter clips are given whole.

    Raises:
        ValueError: if there is no such folder or layout, no clip is found, or more than one layout fits.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: expected one in a layout of {', '.join(LAYOUTS)}.")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, or None for all frames, got {num_frames}.")
    _check_layout(layout, ("auto", *LAYOUTS))
    asked = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    found = {key: names for key, room in asked.items() if (names := room.find_names(folder))}
    if not found:
        inside = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
        shown = ", ".join(inside[:10]) + (f" and {len(inside) - 10} more" if len(inside) > 10 else "")
        raise ValueError(
            f"{folder} has no clips in a layout of {', '.join(asked)}: it holds {shown or 'nothing'}. "
            "See the top of each examples/trajectory_data/layout_*.py for the files that a layout consists of."
        )
    if len(found) > 1:
        raise ValueError(f"{folder} fits several layouts: {', '.join(found)}. Say which with `layout=`.")
    (layout, names), *_ = found.items()
    return TrajectoryDataset(folder, layout, tuple(names), num_frames)


def write_clip(record: ClipRecord, folder: str | os.PathLike, layout: str = "worlds") -> None:
    """Write one clip; its video comes last and appears complete, so a clip that has its .mp4 has everything.

    Args:
        record: The clip; its name becomes the stem of the files.
        folder: Made if it does not exist.
        layout: One of "worlds", "sidecars", "coco_rle".

    Raises:
        ValueError: if the layout cannot be written or cannot hold this clip.
    """
    _check_layout(layout, WRITABLE_LAYOUTS)
    LAYOUTS[layout].write(record, Path(folder))


def _check_layout(layout: str, known: tuple[str, ...]) -> None:
    if layout not in known:
        raise ValueError(f"Unknown layout {layout!r}: expected one of {', '.join(known)}.")
