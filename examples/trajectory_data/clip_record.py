"""What one clip with ground truth is, whatever files it came from.

In:   arrays read by a layout, or rendered by `worlds`
Out:  ClipRecord, checked
From: layout_*.py, make_worlds.py     To: training, evaluation, write_clip
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class ClipRecord:
    """A clip and its true trajectories.

    Attributes:
        name: Its name in the data set, also the stem of its files; may contain folders ("sav_000/sav_000001").
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectory_ids: (T, H_px, W_px) int16, 0 = background, 1..M objects, constant over time, -1 = nobody knows.
        frame_times_s: (T,) float64, seconds from the first frame of the video, rising.
        metadata: Whatever else the files say (captions, questions, attributes), as plain values.

    Raises:
        ValueError: if shapes, types or ids are not as above.
    """

    name: str
    frames_uint8: np.ndarray
    trajectory_ids: np.ndarray
    frame_times_s: np.ndarray
    metadata: dict = field(default_factory=dict)

    def __post_init__(self):
        frames, ids = self.frames_uint8, np.asarray(self.trajectory_ids)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise ValueError(
                f"Clip {self.name}: expected frames (T, H_px, W_px, 3) uint8, got {frames.shape} {frames.dtype}."
            )
        if ids.shape != frames.shape[:3] or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"Clip {self.name}: expected integer ids {frames.shape[:3]} like its frames, "
                f"got {ids.shape} {ids.dtype}."
            )
        if ids.min() < -1 or ids.max() > np.iinfo(np.int16).max:
            raise ValueError(f"Clip {self.name}: ids must be from -1 to 32767, got {ids.min()} to {ids.max()}.")
        self.trajectory_ids = ids.astype(np.int16)
        self.frame_times_s = np.asarray(self.frame_times_s, dtype=np.float64)
        if self.frame_times_s.shape != frames.shape[:1] or (np.diff(self.frame_times_s) <= 0).any():
            raise ValueError(
                f"Clip {self.name}: expected {len(frames)} rising frame times, got {self.frame_times_s.tolist()}."
            )

    @property
    def fps(self) -> float:
        """Frames per second between the first and the last frame; 1 for a single frame."""
        if len(self.frame_times_s) == 1:
            return 1.0
        return (len(self.frame_times_s) - 1) / (self.frame_times_s[-1] - self.frame_times_s[0])
