"""Clips with a class each.

In:   ClipCache or clips whose metadata tell a class
Out:  pixel_values_videos (T, 3, S, S) ImageNet-normalised, labels
To:   train_trajadapter.py
"""

from collections.abc import Sequence

import numpy as np
import torch
from evaluation.object_matching import world_objects
from torch import Tensor
from torch.utils.data import Dataset, Subset
from trajectory_data import TrajectoryDataset
from worlds import COLOURS, OBJECT_MOTIONS, SHAPES
from worlds.language import largest_object

from .clip_cache import ClipCache
from .pixels import normalise, pixels_of
from .recipe import LoopRecipe

# What can be told of the largest object of a world.
WORLD_LABELS = {"motion": tuple(OBJECT_MOTIONS), "shape": tuple(SHAPES), "colour": tuple(COLOURS)}


def classes_of(clips: Sequence, label: str) -> list[str]:
    """All classes of the clips, in a fixed order.

    Args:
        clips: of `open_clips`.
        label: of worlds, a key of `WORLD_LABELS`.

    Raises:
        ValueError: for another label, or files without classes.
    """
    chosen = None
    if isinstance(clips, Subset):
        clips, chosen = clips.dataset, clips.indices
    if isinstance(clips, TrajectoryDataset):
        if clips.layout != "class_folders":
            raise ValueError(
                f"{clips.folder} is of layout {clips.layout}, expected class_folders: a folder of videos per class."
            )
        names = clips.names if chosen is None else [clips.names[index] for index in chosen]
        return sorted({name.split("/")[0] for name in names})
    if label not in WORLD_LABELS:
        raise ValueError(f"label is {label!r}, expected one of {', '.join(WORLD_LABELS)}.")
    return list(WORLD_LABELS[label])


def class_of(metadata: dict, label: str) -> str:
    """The class of a clip."""
    if "label" in metadata:
        return metadata["label"]
    return getattr(largest_object(world_objects(metadata)), label)


class LabelledViews(Dataset):
    """View j: a clip in an order shuffled anew each epoch, and the number of its class."""

    def __init__(self, clips: ClipCache, recipe: LoopRecipe, classes: Sequence[str]):
        self.clips, self.recipe = clips, recipe
        self.number_of = {name: number for number, name in enumerate(classes)}

    def __len__(self) -> int:
        return self.recipe.num_steps * self.recipe.batch_size

    def __getitem__(self, view: int) -> dict[str, Tensor]:
        epoch, position = divmod(view, len(self.clips))
        clip = np.random.default_rng([self.recipe.seed, 0, epoch]).permutation(len(self.clips))[position]
        frames, _ = self.clips[clip]
        chosen = np.linspace(0, len(frames) - 1, self.recipe.num_frames).round().astype(int)
        number = self.number_of[class_of(self.clips.metadata(clip), self.recipe.label)]
        return {"pixel_values_videos": normalise(pixels_of(frames[chosen])), "labels": torch.tensor(number)}
