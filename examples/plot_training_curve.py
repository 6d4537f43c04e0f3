"""Draw the curve of one training run, or of several that continue each other.

What you will see: a PNG with the training loss (mean of 50 steps) above and the held-out scores below.

    python examples/plot_training_curve.py runs/tiny-images runs/tiny-clips --out curve.png

Needs: ``pip install -e ".[viz]"``; seconds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from storage import write_whole

mpl.use("Agg")
import matplotlib.pyplot as plt

SHOWN = {
    "held_out/fg_ari": "FG-ARI",
    "held_out/mean_best_iou": "mean best IoU",
    "held_out/ari": "ARI",
    "held_out/zero_shot_top1": "zero-shot top-1, 24 captions",
    "held_out/motion_top1": "motion top-1, 4 captions",
    "held_out/text_to_video_r1": "text to video R@1",
    "held_out/trajectory_hit": "trajectory hit",
}
COLOURS = ("#D55E00", "#009E73", "#999999", "#0072B2")


def read_runs(folders: Sequence[Path]) -> tuple[list[dict], list[int]]:
    """Log lines of the runs with steps counted through, and the step at which each run ends."""
    lines, ends = [], [0]
    for folder in folders:
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise ValueError(f"No {path}, expected the output folder of a training script.")
        run = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines += [{**line, "step": line["step"] + ends[-1]} for line in run]
        ends.append(ends[-1] + run[-1]["step"])
    return lines, ends


def draw(lines: list[dict], ends: list[int], path: Path) -> None:
    """Write the picture."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    steps, losses = (np.array([line[name] for line in lines if "loss" in line]) for name in ("step", "loss"))
    window = min(50, len(losses))
    top.plot(steps[window - 1 :], np.convolve(losses, np.ones(window) / window, mode="valid"), color="#0072B2")
    top.set_ylabel(f"training loss, mean of {window} steps")
    there = [name for name in SHOWN if any(name in line for line in lines)]
    for name, colour in zip(there, COLOURS, strict=False):
        points, label = [(line["step"], line[name]) for line in lines if name in line], SHOWN[name]
        bottom.plot(*zip(*points, strict=True), marker="o", label=label, color=colour)
    bottom.set_ylabel("held-out score")
    bottom.set_xlabel("step")
    bottom.set_ylim(0, 1)
    bottom.legend()
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        for end in ends[1:-1]:
            axis.axvline(end, color="black", linestyle=":")
    write_whole(path, lambda part: figure.savefig(part, dpi=110, format=path.suffix[1:] or "png"))
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of a training script, in their order")
    parser.add_argument("--out", type=Path, default=Path("curve.png"))
    settings = parser.parse_args(argv)
    try:
        draw(*read_runs(settings.runs), settings.out)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
