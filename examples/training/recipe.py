"""Recipes: everything that a training run depends on, in one YAML file.

In:   a YAML file and ``key=value`` changes from the command line
Out:  a recipe dataclass, checked
To:   train_trajtok.py, train_trajvit2.py, train_trajvlm.py
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
        difficulty: of the worlds: "easy", "eventful", "default" or "hard".
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
class LoopRecipe:
    """What every training loop is told; one step is one update of the weights.

    Attributes:
        batch_size: views per step, over all processes and accumulation steps.
        accumulation_steps: micro-batches per step.
        num_steps: length of the run.
        learning_rate: peak, reached after ``warmup_steps``, then a cosine down to a fiftieth.
        rate_factors: beginnings of parameter names and what their learning rate is multiplied with.
        frozen: beginnings of the names of parameters that stay as they are.
        warmup_steps: steps of linear warm-up.
        weight_decay: on matrices and kernels; vectors have none.
        max_grad_norm: gradients are clipped to this norm.
        seed: of weights and views.
        num_workers: data-loading processes of each training process.
        checkpoint_every: steps between resumable checkpoints.
        evaluate_every: steps between evaluations.
    """

    batch_size: int = 8
    accumulation_steps: int = 1
    num_steps: int = 1000
    learning_rate: float = 1e-3
    rate_factors: dict = field(default_factory=dict)
    frozen: list = field(default_factory=list)
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0
    num_workers: int = 1
    checkpoint_every: int = 200
    evaluate_every: int = 500


@dataclass
class TrajTokRecipe(LoopRecipe):
    """Segmentation pretraining. Sizes in frames, pixels and clips.

    Attributes:
        model: keywords of `TrajTokConfig`.
        initial_checkpoint: folder or Hub name of a TrajTok model to start from; empty = random weights.
        train: clips to learn from.
        held_out: clips to be judged on.
        size_px: height and width of training and evaluation.
        num_frames: T of a training view.
        min_crop: smallest side of a random crop, as a share of the clip's side.
    """

    model: dict = field(default_factory=dict)
    initial_checkpoint: str = ""
    train: ClipSource = field(default_factory=ClipSource)
    held_out: ClipSource = field(default_factory=ClipSource)
    size_px: int = 128
    num_frames: int = 4
    min_crop: float = 0.6


@dataclass
class TrajViT2Recipe(LoopRecipe):
    """Contrastive training of videos and captions. Sizes in frames, pixels and clips.

    Attributes:
        model: keywords of `TrajViT2Config`; the rest is taken from the configuration of the checkpoint, if any.
        trajtok_checkpoint: folder or Hub name of a TrajTok model to start from; empty = random weights.
        initial_checkpoint: folder or Hub name of a whole TrajViT2 model to start from, with its tokenizer.
        train: clips with captions to learn from.
        held_out: clips to be judged on.
        size_px: height and width of training and evaluation.
        num_frames: T of a training view.
        image_share: share of the steps whose views are single frames; their captions tell no motion.
        vocabulary_size: most WordPieces that are learnt from the captions; 0 = take ``tokenizer``.
        tokenizer: folder or Hub name of a tokenizer to use instead of learning one.
        max_text_length: tokens per text at most.
        altered_captions: false captions per video, each the true one with one thing changed.
        named_trajectories: objects per video whose trajectory is compared with the text that describes it.
        altered_names: false texts per named object, each with another shape, colour or motion.
        summary_share: share of the video captions that are summaries; a fifth of the others only lists the objects.
        trajectory_text_weight: weight of that comparison in the loss.
        segmentation: train the segmenter with the masks as well.
        ema_decay: of the averaged weights that are evaluated and saved; 0 = the weights as they are.
    """

    model: dict = field(default_factory=dict)
    trajtok_checkpoint: str = ""
    initial_checkpoint: str = ""
    train: ClipSource = field(default_factory=ClipSource)
    held_out: ClipSource = field(default_factory=ClipSource)
    size_px: int = 96
    num_frames: int = 4
    image_share: float = 0.0
    vocabulary_size: int = 400
    tokenizer: str = ""
    max_text_length: int = 77
    altered_captions: int = 1
    named_trajectories: int = 2
    altered_names: int = 0
    summary_share: float = 0.45
    trajectory_text_weight: float = 1.0
    segmentation: bool = True
    ema_decay: float = 0.0


@dataclass
class TrajVLMRecipe(LoopRecipe):
    """Training of a TrajVLM on captions or instructions. Sizes in frames, pixels and clips.

    Attributes:
        model: keywords of `TrajVLMConfig`; without checkpoints, its parts start from random weights.
        trajtok_checkpoint: folder or Hub name of a TrajTok or TrajViT2 model whose segmenter is taken.
        vision_checkpoint: folder or Hub name of a SigLIP, SigLIP2 or TrajViT2 model; the last needs no segmenter.
        text_checkpoint: folder or Hub name of a causal language model, with its tokenizer.
        initial_checkpoint: folder or Hub name of a whole TrajVLM to start from, with its processor.
        train: clips with captions, questions or messages.
        held_out: worlds to be judged on.
        stage: "captions" asks for descriptions, "instructions" asks the clips' questions. Clips with messages of
            their own are not affected.
        size_px: height and width of the frames.
        num_frames: T of a training view.
        questions_per_clip: turns of a conversation about a world, the types of questions in turn.
        questions_apart: ask the questions about a world each on its own, without sight of the others and their
            answers; they share a row and the video's tokens.
        caption_share: of the conversations that ask questions, how many begin with a description.
        list_share: of the conversations that ask questions, how many name every object of the world, in any order.
        left_out_types: types of questions that are not asked.
        extra_types: types of questions beyond those of the worlds: "motion", "place", "origin",
            "likeness".
        length_groups: batches among which views are sorted by length, so that a batch is padded less; 0 = none.
        vocabulary_size: most WordPieces that are learnt where there is no tokenizer.
        max_text_length: tokens per prompt at most.
        ema_decay: of the averaged weights that are evaluated and saved; 0 = the weights as they are.
    """

    model: dict = field(default_factory=dict)
    trajtok_checkpoint: str = ""
    vision_checkpoint: str = ""
    text_checkpoint: str = ""
    initial_checkpoint: str = ""
    train: ClipSource = field(default_factory=ClipSource)
    held_out: ClipSource = field(default_factory=ClipSource)
    stage: str = "instructions"
    size_px: int = 378
    num_frames: int = 8
    questions_per_clip: int = 4
    questions_apart: bool = False
    caption_share: float = 0.0
    list_share: float = 0.0
    left_out_types: list = field(default_factory=list)
    extra_types: list = field(default_factory=list)
    length_groups: int = 0
    vocabulary_size: int = 600
    max_text_length: int = 1024
    ema_decay: float = 0.0

    def __post_init__(self):
        if self.stage not in ("captions", "instructions"):
            raise ValueError(f"stage is {self.stage!r}, expected 'captions' or 'instructions'.")


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
