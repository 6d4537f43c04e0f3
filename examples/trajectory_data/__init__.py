"""Videos with trajectory ground truth, from many layouts of files into one record.

    dataset = open_dataset("my_videos")      # says which layout it found, or what it looked for
    clip = dataset[0]                        # ClipRecord: frames_uint8, trajectory_ids, frame_times_s, metadata
    write_clip(clip, "elsewhere", layout="coco_rle")

The rooms: clip_record.py (what a clip is), clip_files.py (videos, masks and archives on disk), one layout_*.py per
layout, clip_dataset.py (finding the layout, opening clips lazily).
"""

from .clip_dataset import LAYOUTS, TrajectoryDataset, open_dataset, write_clip
from .clip_record import ClipRecord

__all__ = ["LAYOUTS", "ClipRecord", "TrajectoryDataset", "open_dataset", "write_clip"]
