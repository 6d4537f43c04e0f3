"""Recipes: everything that a training run depends on, in one YAML file.

In:   a YAML file and ``key=value`` changes from the command line
Out:  a recipe dataclass, checked
To:   train_trajtok.py
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

Recipe = TypeVar("Recipe")


@dataclass
class ClipSource:
    """Where clips come from: files (``path``) or moving-object worlds rendered on the fly (``path`` empty).

    Attributes:
        path: folder of videos with masks, in any layout that `trajectory_data.open_dataset` reads.
        layout: its layout, "auto" to find out.
        difficulty: of the worlds: "easy", "default" or "hard".
        seed: of the worlds.
        num_clips: how many worlds, or the most files that are used (0 = all).
        num_frames: frames kept of each clip.
        skip_bad: leave out files that cannot be read and count them, instead of stopping.
    """

    path: str = ""
    layout: str = "auto"
    difficulty: str = "default"
    seed: int = 0
    num_clips: int = 0
    num_frames: int = 8
    skip_bad: bool = False


@dataclass
class TrajTokRecipe:
    """Segmentation pretraining. Sizes in frames, pixels and clips; one step is one update of the weights.

    Attributes:
        model: keywords of `TrajTokConfig`.
        initial_checkpoint: folder or Hub name of a TrajTok model to start from; empty = random weights.
        train: clips to learn from.
        held_out: clips to be judged on.
        size_px: height and width of training and evaluation.
        num_frames: T of a training view.
        min_crop: smallest side of a random crop, as a share of the clip's side.
        batch_size: views per step, over all processes and accumulation steps.
        accumulation_steps: micro-batches per step.
        num_steps: length of the run.
        learning_rate: peak, reached after ``warmup_steps``, then a cosine down to a fiftieth.
        warmup_steps: steps of linear warm-up.
        weight_decay: on matrices and kernels; vectors have none.
        max_grad_norm: gradients are clipped to this norm.
        seed: of weights and views.
        num_workers: data-loading processes of each training process.
        checkpoint_every: steps between resumable checkpoints.
        evaluate_every: steps between evaluations.
    """

    model: dict = field(default_factory=dict)
    initial_checkpoint: str = ""
    train: ClipSource = field(default_factory=ClipSource)
    held_out: ClipSource = field(default_factory=ClipSource)
    size_px: int = 128
    num_frames: int = 4
    min_crop: float = 0.6
    batch_size: int = 8
    accumulation_steps: int = 1
    num_steps: int = 1000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0
    num_workers: int = 1
    checkpoint_every: int = 200
    evaluate_every: int = 500


def load_recipe(recipe_type: type[Recipe], path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        recipe_type: the dataclass to fill.
        path: YAML file.
        changes: such as ``num_steps=10`` or ``train.seed=3``; values are YAML.

    Raises:
        ValueError: for a missing file, an unknown field (with the nearest known one) or a value of another type.
    """
    if not path.is_file():
        raise ValueError(f"No recipe at {path}. Shipped recipes are in examples/recipes.")
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not separator:
            raise ValueError(f"Cannot read the change {change!r}, expected name=value, e.g. num_steps=10.")
        *parents, leaf = name.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = yaml.safe_load(value)
    return _fill(recipe_type, values, str(path))


def _fill(recipe_type: type[Recipe], values: dict[str, Any], where: str) -> Recipe:
    known = {item.name: item for item in fields(recipe_type)}
    filled = {}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}."
            raise ValueError(f"{where}: there is no field `{name}`; {hint}")
        expected = known[name].type
        if is_dataclass(expected):
            value = _fill(expected, value, f"{where}, {name}")
        elif expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise ValueError(f"{where}: `{name}` is {value!r}, expected a value of type {expected.__name__}.")
        filled[name] = value
    return recipe_type(**filled)
