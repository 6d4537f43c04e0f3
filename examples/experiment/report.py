"""Tables and plots of what was measured.

In:   the record of controlled_experiment.py
Out:  comparison.md, costs.md, ablations.md and PNG pictures
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from evaluation.caption_evaluation import NUM_CANDIDATES
from matplotlib.axes import Axes

from .worlds_mix import MIXED

COLOURS = {
    "trajvit2": "#D55E00",
    "given-trajectories": "#E69F00",
    "vit3d": "#0072B2",
    "tome": "#56B4E9",
    "rlt": "#009E73",
    "tokenlearner": "#CC79A7",
}
MATCHED = {"flops": "the same training FLOPs", "samples": "the same clips seen"}


def write_report(record: dict, out: Path) -> None:
    """Write the tables and pictures of the parts that the record has."""
    found = {name: part["results"] for name, part in record.items() if part["results"]}
    made = {name: how_made(part) for name, part in record.items()}
    compared = {name: found[name] for name in MATCHED if name in found}
    if compared:
        tables = [f"{made[name]}\n\n{comparison_table(results)}" for name, results in compared.items()]
        (out / "comparison.md").write_text("\n\n".join(tables) + "\n", "utf-8")
        for name, results in compared.items():
            plot_scenes(results, out / f"scenes_{name}.png")
    if "flops" in compared:
        plot_curves(compared["flops"], out / "accuracy_against_flops.png")
    if "costs" in found:
        (out / "costs.md").write_text(f"{made['costs']}\n\n{cost_table(found['costs'])}\n", "utf-8")
        plot_tokens(found["costs"], out / "tokens_against_duration.png")
    if "ablations" in found:
        (out / "ablations.md").write_text(f"{made['ablations']}\n\n{ablation_table(found['ablations'])}\n", "utf-8")
        plot_quality(found["ablations"], out / "quality_against_accuracy.png")


def how_made(part: dict) -> str:
    """The settings that a reader of a table needs."""
    settings, results = part["settings"], part["results"]
    minutes = sum(result.get("seconds", 0) for result in results if "steps" in result) / 60
    told = [f"commit {part['versions']['commit']}"]
    if minutes:
        told += [f"{settings['clips']} training clips", f"{settings['held_out_clips']} held-out clips of each kind"]
        told += [f"{len({result['seed'] for result in results})} seeds", f"{minutes:.0f} minutes in all"]
    return f"Made by `examples/controlled_experiment.py` ({', '.join(told)})."


def groups_of(results: Sequence[dict], key: str) -> dict[str, list[dict]]:
    """Runs of the same name, in the order in which they came."""
    groups = {}
    for result in results:
        groups.setdefault(result[key], []).append(result)
    return groups


def spread(values: Sequence[float], scale: float = 100.0) -> str:
    """Mean and, of several values, the standard deviation of a sample."""
    mean = f"{scale * np.mean(values):.1f}"
    return f"{mean} ± {scale * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def comparison_table(results: Sequence[dict]) -> str:
    """Mean ± standard deviation over seeds in per cent, by difficulty of the worlds."""
    columns: list[tuple[str, Callable[[dict, str], float]]] = [
        ("zero-shot", lambda scores, kind: scores["difficulty"][kind]["zero_shot"]),
        ("R@1", lambda scores, kind: scores["difficulty"][kind]["r1"]),
        ("probes", lambda scores, kind: scores["probes"][kind]["mean"]),
    ]
    titles = ["system", "trained weights", "steps", "GFLOP per step", "tokens"]
    titles += [f"{name}, {kind}" for name, _ in columns for kind in MIXED]
    rows = []
    for name, runs in groups_of(results, "system").items():
        tokens = np.mean([run["scores"]["difficulty"]["default"]["tokens"] for run in runs])
        row = [name, f"{runs[0]['parameters'] / 1e6:.2f} M", str(runs[0]["steps"])]
        row += [f"{runs[0]['step_flops'] / 1e9:.0f}", f"{tokens:.0f}"]
        rows.append(row + [spread([of(run["scores"], kind) for run in runs]) for _, of in columns for kind in MIXED])
    majority = [f"{100 * results[0]['scores']['majority'][kind]['mean']:.1f}" for kind in MIXED]
    chance = [f"{100 / NUM_CANDIDATES:.1f}"] * len(MIXED) + [f"{100 / results[0]['held_out_clips']:.1f}"] * len(MIXED)
    rows.append(["chance, most frequent answer", "", "", "", "", *chance, *majority])
    told = "per cent, mean ± standard deviation over seeds; tokens: on default worlds, of ToMe those that are left"
    return f"With {MATCHED[results[0]['matched']]} ({told}):\n\n{table(titles, rows)}"


def cost_table(rows: Sequence[dict]) -> str:
    """Tokens, GFLOP, milliseconds and MB for clips of rising length."""
    frames = sorted({row["frames"] for row in rows})
    kinds = {
        "tokens": lambda row: f"{row['tokens']:.0f}",
        "GFLOP": lambda row: f"{row['gflop']:.2f}",
        "ms": lambda row: f"{1000 * row['seconds']:.0f}",
        "peak MB": lambda row: f"{row['peak_mb']:.0f}",
    }
    titles = ["system", "", *(f"{count} frames" for count in frames)]
    lines = []
    for name, own in groups_of(rows, "system").items():
        by_frames = {row["frames"]: row for row in own}
        for kind, shown in kinds.items():
            lines.append([name, kind, *(shown(by_frames[count]) if count in by_frames else "" for count in frames)])
    return table(titles, lines)


def ablation_table(results: Sequence[dict]) -> str:
    """Accuracy and quality of the trajectories, mean ± standard deviation over seeds in per cent."""
    titles = ["TrajViT2 with", "tokens", "zero-shot", "R@1", "probes", "FG-ARI", "VEQ", "STQ-EN"]
    rows = []
    for name, runs in groups_of(results, "variation").items():
        scores = [run["scores"] for run in runs]
        row = [name, f"{np.mean([one['difficulty']['default']['tokens'] for one in scores]):.0f}"]
        row += [
            spread([_mean_over_worlds(one["difficulty"], score) for one in scores]) for score in ("zero_shot", "r1")
        ]
        row.append(spread([_mean_over_worlds(one["probes"], "mean") for one in scores]))
        row += [spread([run["segmentation"][score] for run in runs]) for score in ("fg_ari", "veq", "stq_en")]
        rows.append(row)
    return table(titles, rows)


def _mean_over_worlds(by_difficulty: dict[str, dict], score: str) -> float:
    return float(np.mean([by_difficulty[kind][score] for kind in MIXED]))


def plot_curves(results: Sequence[dict], path: Path) -> None:
    """Zero-shot accuracy and retrieval, means over the worlds, against the training FLOPs spent."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, score, title in zip(axes, ("zero_shot", "r1"), ("zero-shot accuracy, %", "R@1, %"), strict=True):
        for name, runs in groups_of(results, "system").items():
            spent = [line["step"] * runs[0]["step_flops"] / 1e12 for line in runs[0]["curve"]]
            values = 100 * np.array(
                [[np.mean([line[f"held_out/{score}/{kind}"] for kind in MIXED]) for line in run["curve"]]
                 for run in runs]
            )  # fmt: skip
            _line(axis, spent, values, name)
        axis.set(xlabel="training, TFLOP", ylabel=title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    _save(figure, path)


def plot_tokens(rows: Sequence[dict], path: Path) -> None:
    """Tokens, FLOPs and peak memory of one clip against its frames."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    lengths = sorted({row["frames"] for row in rows})
    kinds = {"tokens": "tokens", "gflop": "GFLOP", "peak_mb": "peak memory above the weights, MB"}
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for name, own in groups_of(rows, "system").items():
            own = sorted(own, key=lambda row: row["frames"])
            values = [row[kind] for row in own]
            axis.plot([row["frames"] for row in own], values, marker="o", color=COLOURS[name], label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [str(count) for count in lengths])
        axis.set(xlabel="frames of the clip", ylabel=title)
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False)
    _save(figure, path)


def plot_scenes(results: Sequence[dict], path: Path) -> None:
    """On default worlds: zero-shot accuracy against the number of objects, retrieval against the length of clips."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, runs in groups_of(results, "system").items():
        counts = [run["scores"]["difficulty"]["default"]["by_objects"] for run in runs]
        hits = np.array([[100 * right / asked for right, asked in one.values()] for one in counts])
        _line(axes[0], [int(number) for number in counts[0]], hits, name)
        frames = [int(count) for count in runs[0]["scores"]["frames"]]
        values = [[100 * run["scores"]["frames"][str(count)]["r1"] for count in frames] for run in runs]
        _line(axes[1], frames, np.array(values), name)
    axes[0].set(xlabel="objects in the world", ylabel="zero-shot accuracy on default worlds, %")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(frames, [str(count) for count in frames])
    axes[1].set(xlabel="frames of the clip", ylabel="R@1 on default worlds, %")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    _save(figure, path)


def plot_quality(results: Sequence[dict], path: Path) -> None:
    """Accuracy of each run against the quality of its trajectories."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    kinds = {"fg_ari": "FG-ARI, %", "veq": "VEQ, %", "stq_en": "STQ-EN, %"}
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for name, runs in groups_of(results, "variation").items():
            quality = [100 * run["segmentation"][kind] for run in runs]
            values = [100 * _mean_over_worlds(run["scores"]["difficulty"], "r1") for run in runs]
            axis.plot(quality, values, "o", label=name)
        axis.set(xlabel=title, ylabel="R@1, %")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=7)
    _save(figure, path)


def _line(axis: Axes, places: Sequence[float], values: np.ndarray, name: str) -> None:
    """Mean over runs (rows of ``values``) with a band of one standard deviation."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    axis.plot(places, mean, marker="o", color=COLOURS[name], label=name)
    axis.fill_between(places, mean - deviation, mean + deviation, color=COLOURS[name], alpha=0.15, linewidth=0)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
