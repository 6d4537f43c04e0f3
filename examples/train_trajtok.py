"""Train TrajTok's segmenter to find trajectories (segmentation pretraining, the paper's first stage).

What you will see: a progress bar with the loss, scores on held-out clips every few hundred steps, and in the output
folder `metrics.jsonl`, TensorBoard files, resumable checkpoints and at the end `final/` for `from_pretrained`.
Start the same command again to continue a run that was stopped or killed: it goes on from its last checkpoint with
the same clips, the same views and the same losses.

    accelerate launch examples/train_trajtok.py --recipe examples/recipes/trajtok_tiny_images.yaml --out runs/tiny
    ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 examples/train_trajtok.py --recipe ... --out ...   # same losses
    accelerate launch examples/train_trajtok.py --recipe ... --out ... train.path=my_clips num_steps=500

Needs: ``pip install -e ".[train]"``; nothing to download.
Original: segmenter/scripts/train.sh
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from evaluation import summarise
from evaluation.segmenter_evaluation import evaluate_segmenter
from torch import Tensor, nn
from tqdm import tqdm
from training.clip_cache import open_clips
from training.loop import build_accelerator, run_script, run_training, save_half_precision, training_clips
from training.recipe import TrajTokRecipe
from training.segmentation_views import SegmentationViews
from trajectory_data import ClipRecord

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokSegmenterModel, TrajTokVideoProcessor


def evaluate(
    model: TrajTokSegmenterModel,
    processor: TrajTokVideoProcessor,
    clips: Sequence[ClipRecord],
    accelerator: Accelerator,
) -> dict[str, float]:
    """Mean scores over the held-out clips, which the processes share."""
    mine = [clips[index] for index in range(accelerator.process_index, len(clips), accelerator.num_processes)]
    progress = tqdm(mine, desc="held-out clips", leave=False, disable=not accelerator.is_main_process)
    scores = gather_object(list(evaluate_segmenter(model, processor, progress)))
    return {name: score["mean"] for name, score in summarise(scores).items()}


def build_model(recipe: TrajTokRecipe) -> TrajTokSegmenterModel:
    """The model of the recipe, with the weights that the recipe starts from."""
    config = TrajTokConfig(**recipe.model)
    if recipe.initial_checkpoint:
        return TrajTokSegmenterModel.from_pretrained(recipe.initial_checkpoint, config=config, dtype=torch.float32)
    return TrajTokSegmenterModel(config)


def train(recipe: TrajTokRecipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    accelerator = build_accelerator(recipe, mixed_precision)
    model = build_model(recipe)
    high_res = model.config.high_res_factor is not None
    processor = TrajTokVideoProcessor(size={"height": recipe.size_px, "width": recipe.size_px})
    held_out = open_clips(recipe.held_out, recipe.size_px)
    with accelerator.main_process_first():
        clips = training_clips(recipe, cache)
    views = SegmentationViews(
        clips,
        num_views=recipe.num_steps * recipe.batch_size,
        num_frames=recipe.num_frames,
        seed=recipe.seed,
        min_crop=recipe.min_crop,
    )

    def losses_of(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = module(**batch, output_high_res=high_res)
        return {"loss": outputs.loss, "pixel_loss": outputs.pixel_loss, "dice_loss": outputs.dice_loss}

    def save_final(segmenter: TrajTokSegmenterModel, folder: Path) -> None:
        """A whole model with the trained segmenter and a fresh encoder."""
        set_seed(recipe.seed)
        final = TrajTokModel(segmenter.config)
        final.segmenter.load_state_dict(segmenter.segmenter.state_dict())
        save_half_precision(final, folder, processor)

    return run_training(
        recipe,
        accelerator,
        out,
        module=model,
        model=model,
        clips=clips,
        views=views,
        evaluate=lambda segmenter: evaluate(segmenter, processor, held_out, accelerator),
        save_final=save_final,
        losses_of=losses_of,
        shown_score="fg_ari",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(__doc__, TrajTokRecipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
