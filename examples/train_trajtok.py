"""Train TrajTok's segmenter to find trajectories (segmentation pretraining, the paper's first stage).

What you will see: a progress bar with the loss, scores on held-out clips every few hundred steps, and in the output
folder `metrics.jsonl`, TensorBoard files, resumable checkpoints and at the end `final/` for `from_pretrained`.
Start the same command again to continue a run that was stopped or killed: it goes on from its last checkpoint with
the same clips, the same views and the same losses.

    accelerate launch examples/train_trajtok.py --recipe examples/recipes/trajtok_tiny_images.yaml --out runs/tiny
    accelerate launch --num_processes 2 --cpu examples/train_trajtok.py --recipe ... --out ...      # the same losses
    accelerate launch examples/train_trajtok.py --recipe ... --out ... train.path=my_clips num_steps=500

Needs: ``pip install trajtok[train]``; nothing to download.
Original: segmenter/scripts/train.sh
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from evaluation import summarise
from evaluation.segmenter_evaluation import evaluate_segmenter
from torch.utils.data import DataLoader
from tqdm import tqdm
from training.clip_cache import ClipCache, open_clips
from training.loop import RunFolder, StepBatches, build_optimizer, set_learning_rate
from training.recipe import TrajTokRecipe, load_recipe
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


def save_final(model: TrajTokSegmenterModel, processor: TrajTokVideoProcessor, folder: Path, seed: int) -> None:
    """Save a `TrajTokModel` with the trained segmenter and a fresh encoder, weights in half precision."""
    set_seed(seed)
    final = TrajTokModel(model.config)
    final.segmenter.load_state_dict(model.segmenter.state_dict())
    final.to(torch.float16).save_pretrained(folder)
    config = TrajTokConfig.from_pretrained(folder)
    config.dtype = torch.float32  # stored in half precision, loaded and computed in single
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(recipe: TrajTokRecipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
        step_scheduler_with_optimizer=False,
    )
    set_seed(recipe.seed)
    config = TrajTokConfig(**recipe.model)
    if recipe.initial_checkpoint:
        model = TrajTokSegmenterModel.from_pretrained(recipe.initial_checkpoint, config=config, dtype=torch.float32)
    else:
        model = TrajTokSegmenterModel(config)
    processor = TrajTokVideoProcessor(size={"height": recipe.size_px, "width": recipe.size_px})
    optimizer = build_optimizer(model, recipe)
    high_res = model.config.high_res_factor is not None
    model, optimizer = accelerator.prepare(model, optimizer)
    folder = RunFolder(out, accelerator)
    first_step = folder.resume()

    held_out = open_clips(recipe.held_out, recipe.size_px)
    with accelerator.main_process_first():
        clips = ClipCache(
            open_clips(recipe.train, recipe.size_px),
            cache,
            num_frames=recipe.train.num_frames,
            size_px=recipe.size_px,
            skip_bad=recipe.train.skip_bad,
        )
    views = SegmentationViews(
        clips,
        num_views=recipe.num_steps * recipe.batch_size,
        num_frames=recipe.num_frames,
        seed=recipe.seed,
        min_crop=recipe.min_crop,
    )
    loader = DataLoader(
        views,
        batch_sampler=StepBatches(recipe, accelerator, first_step),
        num_workers=recipe.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=recipe.num_workers > 0,
    )
    batches = iter(loader)
    progress = tqdm(
        range(first_step, recipe.num_steps),
        initial=first_step,
        total=recipe.num_steps,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    scores = {}
    model.train()
    for step in progress:
        started = time.perf_counter()
        rate = set_learning_rate(optimizer, step, recipe)
        totals = torch.zeros(3, device=accelerator.device)
        for _ in range(recipe.accumulation_steps):
            batch = {name: value.to(accelerator.device) for name, value in next(batches).items()}
            with accelerator.accumulate(model):
                outputs = model(**batch, output_high_res=high_res)
                accelerator.backward(outputs.loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            parts = torch.stack([outputs.loss, outputs.pixel_loss, outputs.dice_loss])
            totals += parts.detach() / recipe.accumulation_steps
        loss, pixel, dice = accelerator.reduce(totals, reduction="mean").tolist()
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} at step {step + 1}. Lower learning_rate or max_grad_norm; the run can be "
                f"continued from step {folder.last_step()} in {out}."
            )
        values = {"loss": loss, "pixel_loss": pixel, "dice_loss": dice, "learning_rate": rate}
        folder.log(step + 1, {**values, "grad_norm": float(norm), "seconds": time.perf_counter() - started})
        progress.set_postfix(loss=f"{loss:.3f}", **{name: f"{scores[name]:.3f}" for name in ("fg_ari",) if scores})

        finished = step + 1
        if finished % recipe.evaluate_every == 0 or finished == recipe.num_steps:
            scores = evaluate(accelerator.unwrap_model(model), processor, held_out, accelerator)
            folder.log(finished, {f"held_out/{name}": value for name, value in scores.items()})
            if accelerator.is_main_process:
                shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
                tqdm.write(f"step {finished}: {shown}")
        if finished % recipe.checkpoint_every == 0 or finished == recipe.num_steps:
            folder.save(finished)
    if accelerator.is_main_process:
        save_final(accelerator.unwrap_model(model), processor, out / "final", recipe.seed)
        tqdm.write(f"saved {out / 'final'}; {clips.num_bad} clips could not be read")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file, see examples/recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, help="folder for decoded clips (default: OUT/clips)")
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("changes", nargs="*", help="fields of the recipe, such as num_steps=10 or train.seed=3")
    arguments = parser.parse_args(argv)
    try:
        recipe = load_recipe(TrajTokRecipe, arguments.recipe, arguments.changes)
        train(recipe, arguments.out, arguments.cache or arguments.out / "clips", arguments.mixed_precision)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
