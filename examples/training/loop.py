"""What every training loop needs: which views a step reads, the run's folder, the optimizer and its rate.

In:   a recipe, an Accelerator
To:   train_trajtok.py, train_trajvit2.py
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from .recipe import LoopRecipe


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
