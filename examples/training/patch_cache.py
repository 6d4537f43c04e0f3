"""Patch features of whole videos, computed once by a frozen segmenter and pooled to coarser patches.

In:   clips of worlds, a TrajTok segmenter
Out:  of each clip patch features (T*H*W, D) and trajectory queries (K, D) in half precision, trajectory ids (T*H*W),
      questions
To:   connector_experiment.py
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from storage import write_text
from torch import Tensor
from tqdm import tqdm
from trajectory_data import ClipRecord

from modeling_trajtok import TrajTokSegmenterModel
from modeling_trajtok.grid_ops import GridSize, resize_patches

from .clip_cache import ClipCache
from .pixels import normalise, pixels_of


class PatchCache:
    """Memory-mapped arrays, one row per clip; a clip counts once all of it is written.

    Args:
        folder: where they lie; one folder for one segmenter and one set of clips.
        num_clips: rows.
        grid: of the coarser patches.
        segmenter: whose sizes the rows have.
    """

    num_bad = 0

    def __init__(self, folder: Path, num_clips: int, grid: GridSize, segmenter: TrajTokSegmenterModel):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.grid, self.num_clips = folder, grid, num_clips
        width, trajectories = segmenter.config.hidden_size, segmenter.config.num_trajectories
        patches = grid.num_patches
        self.features = ClipCache.array(folder / "features.npy", (num_clips, patches, width), np.float16)
        self.queries = ClipCache.array(folder / "queries.npy", (num_clips, trajectories, width), np.float16)
        self.ids = ClipCache.array(folder / "ids.npy", (num_clips, patches), np.int16)
        self.done = ClipCache.array(folder / "done.npy", (num_clips,), np.uint8)

    def __len__(self) -> int:
        return self.num_clips

    @torch.no_grad()
    def fill(self, clips: Sequence[ClipRecord], segmenter: TrajTokSegmenterModel) -> None:
        """Segment the clips that have not been yet; a run that was killed goes on where it stopped."""
        segmenter.eval()
        for index in tqdm(np.flatnonzero(self.done == 0), desc=f"features of {self.grid.t} frames"):
            clip = clips[int(index)]
            output = segmenter(normalise(pixels_of(clip.frames_uint8))[None])
            found = GridSize(*output.trajectory_ids.shape[1:])
            size_hw = (self.grid.h, self.grid.w)
            self.features[index] = resize_patches(output.patch_features, found, size_hw)[0].half()
            self.queries[index] = output.trajectory_queries[0].half()
            self.ids[index] = resize_patches(output.assignment_logits, found, size_hw)[0].argmax(dim=-1).short()
            write_text(self._questions_file(index), json.dumps(clip.metadata["questions"]))
            self.done[index] = 1

    def questions(self, index: int) -> list[dict]:
        """Questions about a clip."""
        return json.loads(self._questions_file(index).read_text(encoding="utf-8"))

    def read(self, index: int) -> dict[str, Tensor]:
        """What a connector reads of a clip, in single precision."""
        return {
            "patch_features": torch.from_numpy(self.features[index].astype(np.float32)),
            "trajectory_ids": torch.from_numpy(self.ids[index].astype(np.int64)),
            "queries": torch.from_numpy(self.queries[index].astype(np.float32)),
        }

    def _questions_file(self, index: int) -> Path:
        return self.folder / f"{int(index):06d}.json"
