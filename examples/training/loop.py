"""The training loop and what it needs: which views a step reads, the run's folder, the optimizer and its rate.

In:   a recipe; a module that computes losses; views; how to evaluate and to save a model
Out:  a folder with a log, resumable checkpoints and the final model
To:   train_trajtok.py, train_trajvit2.py

A script parses its arguments with `run_script`, and its ``train`` makes an Accelerator with `build_accelerator`, then
hands what is its own to `run_training`.
"""

import argparse
import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
    set_seed,
)
from storage import folder_lock, telling_full_disk, write_text
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import PreTrainedModel

from .clip_cache import ClipCache, open_clips
from .precision import warn_if_slow
from .recipe import LoopRecipe, Recipe, load_recipe


def run_script(
    description: str,
    recipe_type: type[Recipe],
    train: Callable[[Recipe, Path, Path, str], dict[str, float]],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line of a training script and train.

    Args:
        description: printed by ``--help``.
        recipe_type: the dataclass of the script's recipes.
        train: called with the recipe, the run's folder, the folder for decoded clips and the mixed precision.
        argv: the arguments, default those of the process.

    Returns:
        The exit status: 0, or 1 after an error of one line.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file, see examples/recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, help="folder for decoded clips (default: OUT/clips)")
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("changes", nargs="*", help="fields of the recipe, such as num_steps=10 or train.seed=3")
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(recipe_type, arguments.recipe, arguments.changes)
        train(recipe, arguments.out, arguments.cache or arguments.out / "clips", arguments.mixed_precision)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    return 0


def build_accelerator(recipe: LoopRecipe, mixed_precision: str, *, every_step_trains_all: bool = True) -> Accelerator:
    """An Accelerator for the recipe; random numbers start at the recipe's seed.

    Args:
        recipe: of the run.
        mixed_precision: "no", "fp16" or "bf16".
        every_step_trains_all: False if some steps do not reach every weight.

    Raises:
        ValueError: for a launch with the first version of FSDP.
    """
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    on_cpu = sharded and (parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not every_step_trains_all)],
    )
    if on_cpu and accelerator.distributed_type == DistributedType.MULTI_CPU:
        _shard_on_cpu(accelerator)
    if is_sharded(accelerator) and not accelerator.is_fsdp2:
        raise ValueError(
            "The launch asks for version 1 of FSDP, expected version 2. Set fsdp_version: 2, as in "
            "examples/recipes/fsdp.yaml."
        )
    if mixed_precision != "no" and accelerator.is_main_process:
        warn_if_slow(accelerator.device, {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision])
    set_seed(recipe.seed)
    return accelerator


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """Switch FSDP on as the launch asks; of itself Accelerate does so on devices other than CPUs only."""
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def is_sharded(accelerator: Accelerator) -> bool:
    """Does each process hold a part of the weights only?"""
    return accelerator.distributed_type == DistributedType.FSDP


def training_clips(recipe: LoopRecipe, cache: Path) -> ClipCache:
    """The clips of a recipe with ``train`` and ``size_px``; call it on the main process first."""
    return ClipCache(
        open_clips(recipe.train, recipe.size_px),
        cache,
        num_frames=recipe.train.num_frames,
        size_px=recipe.size_px,
        skip_bad=recipe.train.skip_bad,
    )


def losses_of_module(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """For modules that return their losses by name."""
    return module(**batch)


def run_training(
    recipe: LoopRecipe,
    accelerator: Accelerator,
    out: Path,
    *,
    module: nn.Module,
    model: PreTrainedModel,
    clips: ClipCache,
    views: Dataset,
    evaluate: Callable[[PreTrainedModel], dict[str, float] | None],
    save_final: Callable[[PreTrainedModel, Path], None],
    losses_of: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] = losses_of_module,
    collate: Callable[[Sequence[dict]], dict[str, Tensor]] | None = None,
    ema_decay: float = 0.0,
    shown_score: str = "",
) -> dict[str, float]:
    """Train from the newest checkpoint of the run, or from the start, to the recipe's last step.

    Args:
        recipe: steps, rates and sizes.
        accelerator: of `build_accelerator`.
        out: folder of the run.
        module: computes the losses; not yet prepared.
        model: what is optimised, evaluated and saved: ``module`` or a part of it.
        clips: of `training_clips`; those that could not be read are counted at the end.
        views: number of a view -> what ``collate`` stacks.
        evaluate: model -> scores; called on every process, those of the main process are logged, others may be None.
            Of a model whose weights are sharded it gets a copy with all weights.
        save_final: writes the model, or that copy, into a folder; called on the main process.
        losses_of: prepared module and batch -> losses by name, each a scalar; "loss" is what is minimised.
        collate: views -> a batch of tensors by name; None stacks them.
        ema_decay: of averaged weights, which are then evaluated and saved; 0 = the weights as they are.
        shown_score: the score that the progress bar shows.

    Returns:
        The last scores of this run, as ``evaluate`` returned them.

    Raises:
        ValueError: for a batch that the processes cannot share, a loss that is not finite, or averaged weights that
            would be sharded.
        FolderInUseError: another run has the folder.
        OSError: the disk is full; the run goes on from its newest checkpoint.
    """
    with folder_lock(out, held=accelerator.is_main_process):
        if ema_decay and is_sharded(accelerator):
            raise ValueError(
                f"ema_decay is {ema_decay}, expected 0 with FSDP. Set ema_decay=0, or launch without FSDP."
            )
        whole = copy.deepcopy(model) if is_sharded(accelerator) else None
        optimizer = build_optimizer(model, recipe)
        module, optimizer = accelerator.prepare(module, optimizer)
        averaged = None
        if ema_decay:
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
            accelerator.register_for_checkpointing(averaged)
        judged = model if averaged is None else averaged.module
        folder = RunFolder(out, accelerator, kept_elsewhere(module))
        first_step = folder.resume()
        loader = DataLoader(
            views,
            batch_sampler=StepBatches(recipe, accelerator, first_step),
            collate_fn=collate,
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
        module.train()
        for step in progress:
            started = time.perf_counter()
            rate = set_learning_rate(optimizer, step, recipe)
            totals = {}
            for _ in range(recipe.accumulation_steps):
                batch = {name: value.to(accelerator.device) for name, value in next(batches).items()}
                with accelerator.accumulate(module):
                    losses = losses_of(module, batch)
                    accelerator.backward(losses["loss"])
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(module.parameters(), recipe.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value.detach() / recipe.accumulation_steps
            if averaged is not None:
                averaged.update_parameters(model)
            means = accelerator.reduce(torch.stack(list(totals.values())), reduction="mean").tolist()
            values = dict(zip(totals, means, strict=True))
            if not math.isfinite(values["loss"]):
                raise ValueError(
                    f"The loss is {values['loss']} at step {step + 1}. Lower learning_rate or max_grad_norm; the run "
                    f"can be continued from step {folder.last_step()} in {out}."
                )
            extras = {"learning_rate": rate, "grad_norm": float(norm), "seconds": time.perf_counter() - started}
            folder.log(step + 1, {**values, **extras})
            shown = values | ({shown_score: scores[shown_score]} if shown_score in scores else {})
            progress.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})

            finished = step + 1
            if finished % recipe.evaluate_every == 0 or finished == recipe.num_steps:
                if whole is not None:
                    whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
                    judged = whole.to(accelerator.device)
                scores = evaluate(judged) or {}
                folder.log(finished, {f"held_out/{name}": value for name, value in scores.items()})
                if accelerator.is_main_process:
                    tqdm.write(
                        f"step {finished}: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
                    )
                accelerator.wait_for_everyone()
            if finished % recipe.checkpoint_every == 0 or finished == recipe.num_steps:
                folder.save(finished)
        if accelerator.is_main_process:
            with telling_full_disk(out / "final"):
                save_final(judged, out / "final")
            tqdm.write(f"saved {out / 'final'}; {clips.num_bad} clips could not be read")
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return scores


def save_half_precision(model: PreTrainedModel, folder: Path, processor: Any) -> None:
    """Save a model and its processor for `from_pretrained`; stored in half precision, loaded and computed in single.

    The model itself is in half precision afterwards.
    """
    model.to(torch.float16).save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


class StepBatches:
    """Which views this process reads: for each step from ``first_step`` on, its share of each micro-batch.

    The views of a step depend on the step alone, so neither a restart nor the number of processes changes them.
    """

    def __init__(self, recipe: LoopRecipe, accelerator: Accelerator, first_step: int):
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


def kept_elsewhere(module: nn.Module) -> set[str]:
    """Names of weights that parts of a module do not save, such as those of a backbone that has files of its own."""
    return {
        f"{place}.{name}".removeprefix("module.")
        for place, part in module.named_modules()
        for name in getattr(part, "_keys_to_ignore_on_save", None) or ()
    }


class RunFolder:
    """Files of a run: checkpoints that are complete or absent, and a log that never runs ahead of them.

    Args:
        path: of the run.
        accelerator: whose state is kept.
        left_out: names of weights that checkpoints do not hold: the model has them before it is resumed.
    """

    def __init__(self, path: Path, accelerator: Accelerator, left_out: Collection[str] = ()):
        self.path, self.accelerator = path, accelerator
        self.left_out = () if is_sharded(accelerator) else left_out
        if self.left_out:
            accelerator.register_save_state_pre_hook(self._leave_out)
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
            strict = {"strict": False} if self.left_out else {}
            self.accelerator.load_state(str(self.path / "checkpoints" / f"step-{step}"), **strict)
        if self.accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.metrics.exists():
                lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                write_text(self.metrics, "".join(kept))
            self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        self.accelerator.wait_for_everyone()
        return step

    def _leave_out(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        for state in weights:
            for name in [name for name in state if name.removeprefix("module.") in self.left_out]:
                del state[name]

    def save(self, step: int) -> None:
        """Write a checkpoint beside its final name, then rename it; keep the two newest."""
        checkpoints = self.path / "checkpoints"
        partial = checkpoints / "partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        with telling_full_disk(partial):
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
            with telling_full_disk(self.metrics):
                with open(self.metrics, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **values}) + "\n")
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)


def build_optimizer(model: torch.nn.Module, recipe: LoopRecipe) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, vectors (norms, biases, scales) do not.

    The groups carry ``rate_factor``: what `set_learning_rate` multiplies the rate with, 1 or that of the module.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = max((key for key in recipe.rate_factors if name.startswith(key)), key=len, default="")
        key = (recipe.rate_factors.get(prefix, 1.0), recipe.weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "rate_factor": factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )


def freeze(model: torch.nn.Module, prefixes: Sequence[str]) -> None:
    """Keep the parameters whose names begin with one of the prefixes as they are.

    Raises:
        ValueError: if no parameter begins with a prefix.
    """
    for prefix in prefixes:
        frozen = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not frozen:
            raise ValueError(f"frozen: no parameter begins with {prefix!r}; see model.named_parameters().")
        for parameter in frozen:
            parameter.requires_grad_(False)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, recipe: LoopRecipe) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak; returns the rate of modules without a factor."""
    warmup = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.num_steps)))
    rate = recipe.learning_rate * warmup * (0.02 + 0.98 * cosine)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    return rate
