"""Layout `clip_folders`: everything of a clip in its own folder. The folder given may also be that of one clip.

    NAME/video.mp4 or NAME/frames/*.jpg
    NAME/masks/*.png      one palette PNG per frame: 0 background, 1..254 objects, 255 nobody knows
    NAME/ids.json         may be absent. `reliable`: ids to trust, all others become "nobody knows"; `fps` of frames/

In:   such a folder     Out: ClipRecord     From: the disk     To: clip_dataset
"""

from pathlib import Path

import numpy as np

from .clip_files import FPS_OF_PICTURES, masks_in, read_annotated_pictures, read_annotated_video, read_json, read_masks
from .clip_record import ClipRecord


def find_names(folder: Path) -> list[str]:
    """The folder itself, or all folders in it, if at least one has masks and a video or frames."""
    if _is_clip(folder):
        return [folder.name]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path.name for path in inside] if any(map(_is_clip, inside)) else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """One clip of the folder."""
    clip = folder if _is_clip(folder) else folder / name
    masks = clip / "masks"
    mask_paths = masks_in(masks)
    about_ids = read_json(clip / "ids.json", "the ids to trust") if (clip / "ids.json").is_file() else {}
    if (clip / "frames").is_dir():
        fps = about_ids.get("fps", FPS_OF_PICTURES)
        indices, frames, times_s = read_annotated_pictures(clip / "frames", num_frames, masks, fps)
    else:
        indices, frames, times_s = read_annotated_video(clip / "video.mp4", len(mask_paths), num_frames, masks)
    ids = read_masks([mask_paths[i] for i in indices], frames.shape[1:3])
    if "reliable" in about_ids:
        ids[~np.isin(ids, [0, *about_ids["reliable"]])] = -1
    return ClipRecord(name, frames, ids, times_s, about_ids)


def _is_clip(folder: Path) -> bool:
    return (folder / "masks").is_dir() and ((folder / "frames").is_dir() or (folder / "video.mp4").is_file())
