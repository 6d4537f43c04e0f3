"""Clips decoded or rendered once, then read at the speed of memory.

In:   any sequence of ClipRecord (files in a layout, or worlds rendered on the fly)
Out:  frames_uint8 (F, S, S, 3) and trajectory_ids (F, S, S) of a clip, at training size
To:   segmentation_views
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from storage import folder_lock, space_for, write_text, write_whole
from torch.utils.data import Subset
from trajectory_data import ClipRecord, open_dataset
from worlds import WorldConfig, render_world

from .recipe import ClipSource


class WorldClips(Sequence):
    """Worlds 0 ... num_worlds-1 of a seed as clips, rendered when asked for."""

    def __init__(self, seed: int, num_worlds: int, config: WorldConfig):
        self.seed, self.num_worlds, self.config = seed, num_worlds, config

    def __len__(self) -> int:
        return self.num_worlds

    def __getitem__(self, index: int) -> ClipRecord:
        if not 0 <= index < self.num_worlds:
            raise IndexError(f"There is no world {index} among {self.num_worlds}.")
        world = render_world(self.seed, index, self.config)
        return ClipRecord(
            name=f"world-{self.seed}-{index}",
            frames_uint8=world.frames_uint8,
            trajectory_ids=world.trajectory_ids,
            frame_times_s=np.arange(len(world.frames_uint8)) / self.config.fps,
            metadata=world.to_record(),
        )


def open_clips(source: ClipSource, size_px: int) -> Sequence[ClipRecord]:
    """The clips of a source: files, or worlds of ``size_px`` pixels."""
    if source.path:
        clips = open_dataset(source.path, source.layout, num_frames=source.num_frames)
        return Subset(clips, range(source.num_clips)) if 0 < source.num_clips < len(clips) else clips
    config = WorldConfig.named(source.difficulty, num_frames=source.num_frames, height=size_px, width=size_px)
    return WorldClips(source.seed, source.num_clips, config)


def resize_clip(frames_uint8: np.ndarray, ids: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Squash a clip to size_px x size_px: frames bilinearly, ids by nearest neighbour."""
    if frames_uint8.shape[1:3] == (size_px, size_px):
        return frames_uint8, ids
    frames = torch.from_numpy(frames_uint8).permute(0, 3, 1, 2).float()
    frames = F.interpolate(frames, size=(size_px, size_px), mode="bilinear", antialias=True)
    ids = F.interpolate(torch.from_numpy(ids).float().unsqueeze(1), size=(size_px, size_px)).squeeze(1)
    return frames.round().byte().permute(0, 2, 3, 1).numpy(), ids.short().numpy()


class ClipCache:
    """A memory-mapped copy of every clip, filled as clips are first read.

    Safe for several processes and for a run that is killed: a clip counts as cached only once it is complete, and who
    reads it at the same time writes the same.

    Args:
        clips: where the clips come from.
        folder: where the copy lives; one folder for one source and size.
        num_frames: F, frames kept of each clip, evenly spaced.
        size_px: S, height and width of the copy.
        skip_bad: use the next readable clip in place of one that cannot be read, and note it in ``bad_clips.jsonl``.
    """

    UNREAD, CACHED, BAD = 0, 1, 2

    def __init__(
        self, clips: Sequence[ClipRecord], folder: Path, *, num_frames: int, size_px: int, skip_bad: bool = False
    ):
        self.clips, self.folder = clips, folder
        self.num_frames, self.size_px, self.skip_bad = num_frames, size_px, skip_bad
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(clips), num_frames, size_px, size_px)
        self.frames = self.array(folder / "frames.npy", (*shape, 3), np.uint8)
        self.ids = self.array(folder / "ids.npy", shape, np.int16)
        self.state = self.array(folder / "state.npy", (len(clips),), np.uint8)
        (folder / "metadata").mkdir(exist_ok=True)

    @staticmethod
    def array(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Open a memory-mapped array, or make it, filled with zeros; its space on the disk is taken at once.

        Raises:
            ValueError: the file holds an array of another shape.
            OSError: there is no room for it.
        """
        with folder_lock(path.parent, wait=True):  # all processes must map the same file
            if not path.exists():

                def make(part: Path) -> None:
                    np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape).flush()
                    space_for(part)

                write_whole(path, make)
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape != shape:
            raise ValueError(
                f"{path} holds an array of shape {array.shape}, expected {shape}. Delete its folder, or name another "
                "one with --cache."
            )
        return array

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (F, S, S, 3) uint8 and ids (F, S, S) int16 of a clip, or of the next one if it is bad."""
        position = self.position_of(index)
        return np.asarray(self.frames[position]), np.asarray(self.ids[position])

    def metadata(self, index: int) -> dict:
        """What else is known of the same clip: captions, objects, ..."""
        return json.loads(self._metadata_file(self.position_of(index)).read_text(encoding="utf-8"))

    def position_of(self, index: int) -> int:
        """``index``, or the next clip that can be read; afterwards it is cached."""
        for attempt in range(len(self)):
            position = (int(index) + attempt) % len(self)
            if self.state[position] == self.UNREAD:
                self._read(position)
            if self.state[position] == self.CACHED:
                return position
        raise ValueError(f"None of the {len(self)} clips can be read, see {self.folder / 'bad_clips.jsonl'}.")

    def _read(self, index: int) -> None:
        try:
            clip = self.clips[index]
        except ValueError as error:
            if not self.skip_bad:
                raise
            with open(self.folder / "bad_clips.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"clip": index, "error": str(error)}) + "\n")
            self.state[index] = self.BAD
            return
        chosen = np.linspace(0, len(clip.frames_uint8) - 1, self.num_frames).round().astype(int)
        self.frames[index], self.ids[index] = resize_clip(
            clip.frames_uint8[chosen], clip.trajectory_ids[chosen], self.size_px
        )
        write_text(self._metadata_file(index), json.dumps(clip.metadata))
        self.state[index] = self.CACHED

    def _metadata_file(self, index: int) -> Path:
        return self.folder / "metadata" / f"{index:06d}.json"

    @property
    def num_bad(self) -> int:
        """Clips that could not be read so far."""
        return int((self.state == self.BAD).sum())
