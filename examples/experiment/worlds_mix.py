"""Worlds of the experiment: training clips of all difficulties in turn, held-out clips of each difficulty and length.

In:   seeds, numbers and lengths of clips
Out:  sequences of ClipRecord
To:   controlled_experiment.py, scores
"""

from collections.abc import Sequence

import numpy as np
from training.clip_cache import ClipCache, WorldClips
from trajectory_data import ClipRecord
from worlds import WorldConfig

MIXED = ("easy", "default", "hard")
TRAINING_SEED, HELD_OUT_SEED = 11, 1000011
MAX_OBJECTS = 6  # more are never miscounted in false captions, and their true captions do not fit the text encoder


def worlds_of(difficulty: str, num_clips: int, num_frames: int, size_px: int, *, seed: int) -> WorldClips:
    """Worlds of one difficulty, with at most `MAX_OBJECTS` objects."""
    number = min(MAX_OBJECTS, WorldConfig.named(difficulty).max_objects)
    config = WorldConfig.named(difficulty, num_frames=num_frames, max_objects=number, height=size_px, width=size_px)
    return WorldClips(seed, num_clips, config)


class MixedWorlds(Sequence):
    """Clip i is of difficulty i modulo their number.

    Args:
        num_clips: of all difficulties together.
        num_frames: of each.
        size_px: height and width.
        seed: of the worlds.
    """

    def __init__(self, num_clips: int, num_frames: int, size_px: int, *, seed: int = TRAINING_SEED):
        self.num_clips = num_clips
        self.kinds = [worlds_of(name, num_clips, num_frames, size_px, seed=seed) for name in MIXED]

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipRecord:
        if not 0 <= index < self.num_clips:
            raise IndexError(f"There is no clip {index} among {self.num_clips}.")
        return self.kinds[index % len(self.kinds)][index]


class CachedRecords(Sequence):
    """The first clips of a cache as they came.

    Args:
        cache: of worlds, with all of their frames.
        num_clips: how many.
    """

    def __init__(self, cache: ClipCache, num_clips: int):
        self.cache, self.num_clips = cache, min(num_clips, len(cache))

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> ClipRecord:
        if not 0 <= index < self.num_clips:
            raise IndexError(f"There is no clip {index} among {self.num_clips}.")
        frames, ids = self.cache[index]
        metadata = self.cache.metadata(index)
        times = np.arange(len(frames)) / metadata["config"]["fps"]
        return ClipRecord(f"world-{index}", frames, ids, times, metadata)
