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
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from evaluation import summarise
from evaluation.segmenter_evaluation import evaluate_segmenter
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from training.clip_cache import ClipCache, WorldClips
from training.recipe import ClipSource, TrajTokRecipe, load_recipe
from training.segmentation_views import SegmentationViews
from trajectory_data import ClipRecord, open_dataset
from worlds import WorldConfig

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokSegmenterModel, TrajTokVideoProcessor


def open_clips(source: ClipSource, size_px: int) -> Sequence[ClipRecord]:
    """The clips of a source: files, or worlds of ``size_px`` pixels."""
    if source.path:
        clips = open_dataset(source.path, source.layout, num_frames=source.num_frames)
        return Subset(clips, range(source.num_clips)) if 0 < source.num_clips < len(clips) else clips
    config = WorldConfig.named(source.difficulty, num_frames=source.num_frames, height=size_px, width=size_px)
    return WorldClips(source.seed, source.num_clips, config)


class StepBatches:
    """Which views this process reads: for each step from ``first_step`` on, its share of each micro-batch.

    The views of a step depend on the step alone, so neither a restart nor the number of processes changes them.
    """

    def __init__(self, recipe: TrajTokRecipe, accelerator: Accelerator, first_step: int):
        shares = accelerator.num_processes * recipe.accumulation_steps
        if recipe.batch_size % shares:
            raise ValueError(
                f"batch_size={recipe.batch_size} cannot be shared by {accelerator.num_processes} processes x "
                f"{recipe.accumulation_steps} accumulation steps, expected a multiple of {shares}."
            )
        self.share = recipe.batch_size // shares
        self.recipe, self.accelerator, self.first_step = recipe, accelerator, first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.recipe.num_steps):
            for micro in range(self.recipe.accumulation_steps):
                position = micro * self.accelerator.num_processes + self.accelerator.process_index
                first = step * self.recipe.batch_size + position * self.share
                yield list(range(first, first + self.share))

    def __len__(self) -> int:
        return (self.recipe.num_steps - self.first_step) * self.recipe.accumulation_steps


class RunFolder:
    """Files of a run: checkpoints that are complete or absent, and a log that never runs ahead of them."""

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator = path, accelerator
        self.metrics = path / "metrics.jsonl"
        self.writer = None

    def last_step(self) -> int:
        """Step of the newest checkpoint, 0 if there is none."""
        steps = [int(folder.name.split("-")[1]) for folder in (self.path / "checkpoints").glob("step-*")]
        return max(steps, default=0)

    def resume(self) -> int:
        """Load the newest checkpoint and forget what was logged after it; returns the number of finished steps."""
        step = self.last_step()
        if step:
            self.accelerator.load_state(str(self.path / "checkpoints" / f"step-{step}"))
        if self.accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.metrics.exists():
                lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                self.metrics.write_text("".join(kept), encoding="utf-8")
            self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        self.accelerator.wait_for_everyone()
        return step

    def save(self, step: int) -> None:
        """Write a checkpoint beside its final name, then rename it; keep the two newest."""
        checkpoints = self.path / "checkpoints"
        partial = checkpoints / "partial"
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            partial.replace(checkpoints / f"step-{step}")
            for old in sorted(checkpoints.glob("step-*"), key=lambda folder: int(folder.name.split("-")[1]))[:-2]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append to the log, on the main process."""
        if self.accelerator.is_main_process:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)


def build_optimizer(model: torch.nn.Module, recipe: TrajTokRecipe) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, vectors (norms, biases, scales) do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def learning_rate(step: int, recipe: TrajTokRecipe) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.num_steps)))
    return recipe.learning_rate * warmup * (0.02 + 0.98 * cosine)


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
        rate = learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
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
