"""Probe a frozen backbone: train a TrajAdapter, or one of the heads that features are probed with otherwise.

What you will see: a progress bar with the loss, accuracy on held-out clips, and in the output folder `metrics.jsonl`,
TensorBoard files, resumable checkpoints and at the end `final/` (head and processor; the backbone stays where it is).
Start the same command again to continue a run that was stopped or killed.

    accelerate launch examples/train_trajadapter.py --recipe examples/recipes/trajadapter.yaml --out runs/adapter
    accelerate launch examples/train_trajadapter.py --recipe examples/recipes/trajadapter.yaml --out runs/mean \
        model.probe=mean
    accelerate launch examples/train_trajadapter.py --recipe examples/recipes/trajadapter.yaml --out runs/ucf \
        train.path=UCF101/train train.num_clips=0 held_out.path=UCF101/test held_out.num_clips=0 \
        backbone=facebook/vjepa2-vitl-fpc64-256

The paths hold a folder of videos for each class; without them worlds are classified by what their largest object does.

Needs: ``pip install -e ".[train]"``, the backbone's checkpoint.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from training.clip_cache import open_clips, resize_clip
from training.labelled_views import LabelledViews, class_of, classes_of
from training.loop import build_accelerator, run_script, run_training, save_half_precision, training_clips
from training.pixels import normalise, pixels_of
from training.recipe import ClipSource, LoopRecipe
from trajectory_data import ClipRecord

from modeling_trajtok import TrajAdapterForVideoClassification, TrajTokVideoProcessor


@dataclass
class TrajAdapterRecipe(LoopRecipe):
    """Training of a probe. Sizes in frames, pixels and clips.

    Attributes:
        backbone: folder or Hub name of a vision or video model of Transformers.
        trajtok_checkpoint: folder or Hub name of a TrajTok whose segmenter is taken; empty = random weights.
        model: keywords of `TrajAdapterConfig`, such as ``probe``.
        train: clips to learn from.
        held_out: clips to be judged on, of the same classes.
        label: of worlds: "motion", "shape" or "colour" of the largest object.
        size_px: height and width of the frames.
        num_frames: T of a training view.
    """

    backbone: str = ""
    trajtok_checkpoint: str = ""
    model: dict = field(default_factory=dict)
    train: ClipSource = field(default_factory=ClipSource)
    held_out: ClipSource = field(default_factory=ClipSource)
    label: str = "motion"
    size_px: int = 224
    num_frames: int = 8


class ClassificationTraining(nn.Module):
    """A classifier with its loss and how many of a batch are right."""

    def __init__(self, model: TrajAdapterForVideoClassification):
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Losses of a batch."""
        output = self.model(labels=labels, **inputs)
        return {"loss": output.loss, "accuracy": (output.logits.argmax(dim=-1) == labels).float().mean()}


def build_model(recipe: TrajAdapterRecipe, classes: Sequence[str]) -> TrajAdapterForVideoClassification:
    """A new head on the recipe's backbone."""
    if not recipe.backbone:
        raise ValueError(
            "The recipe names no backbone, expected a vision or video model: backbone=facebook/dinov2-base."
        )
    return TrajAdapterForVideoClassification.from_components(
        backbone=recipe.backbone,
        trajtok=recipe.trajtok_checkpoint or None,
        num_frames=recipe.num_frames,
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
        **recipe.model,
    )


@torch.no_grad()
def evaluate(
    model: TrajAdapterForVideoClassification, clips: Sequence[ClipRecord], recipe: TrajAdapterRecipe
) -> dict[str, float]:
    """Share of held-out clips whose class is the likeliest, and among the five likeliest.

    Raises:
        ValueError: for a clip that cannot be read, unless ``held_out.skip_bad`` leaves such clips out.
    """
    was_training = model.training
    model.eval()
    places = []
    for index in tqdm(range(len(clips)), desc="held-out clips", leave=False):
        try:
            clip = clips[index]
        except ValueError as error:
            if not recipe.held_out.skip_bad:
                raise ValueError(f"{error} Set held_out.skip_bad=true to leave out what cannot be read.") from error
            tqdm.write(f"left out: {error}")
            continue
        frames, _ = resize_clip(clip.frames_uint8, clip.trajectory_ids, recipe.size_px)
        chosen = np.linspace(0, len(frames) - 1, recipe.num_frames).round().astype(int)
        pixels = normalise(pixels_of(frames[chosen])).unsqueeze(0).to(model.device)
        order = model(pixels).logits[0].argsort(descending=True).tolist()
        places.append(order.index(model.config.label2id[class_of(clip.metadata, recipe.label)]))
    model.train(was_training)
    if not places:
        raise ValueError(f"None of the {len(clips)} held-out clips can be read.")
    places = np.array(places)
    return {"accuracy": float((places < 1).mean()), "top5": float((places < 5).mean()), "clips": float(len(places))}


def train(recipe: TrajAdapterRecipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    accelerator = build_accelerator(recipe, mixed_precision)
    with accelerator.main_process_first():
        clips = training_clips(recipe, cache)
    held_out = open_clips(recipe.held_out, recipe.size_px)
    classes, judged = classes_of(clips.clips, recipe.label), classes_of(held_out, recipe.label)
    if unknown := sorted(set(judged) - set(classes)):
        raise ValueError(
            f"The held-out clips are of classes that are not trained: {', '.join(unknown[:5])}. Expected some of the "
            f"{len(classes)} of the training clips: {', '.join(classes[:5])}, ..."
        )
    model = build_model(recipe, classes)
    size = {"height": recipe.size_px, "width": recipe.size_px}
    return run_training(
        recipe,
        accelerator,
        out,
        module=ClassificationTraining(model),
        model=model,
        clips=clips,
        views=LabelledViews(clips, recipe, classes),
        evaluate=accelerator.on_main_process(partial(evaluate, clips=held_out, recipe=recipe)),
        save_final=partial(
            save_half_precision, processor=TrajTokVideoProcessor(size=size, num_frames=recipe.num_frames)
        ),
        shown_score="accuracy",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(__doc__, TrajAdapterRecipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
