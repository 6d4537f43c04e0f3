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
from evaluation.tables import markdown_table, sample_deviation, spread
from matplotlib.axes import Axes
from storage import write_text, write_whole
from worlds.distractors import ATTRIBUTES

from .scores import QUESTIONS
from .worlds_mix import MIXED

COLOURS = {
    "trajvit2": "#D55E00",
    "given-trajectories": "#E69F00",
    "vit3d": "#0072B2",
    "tome": "#56B4E9",
    "rlt": "#009E73",
    "tokenlearner": "#CC79A7",
}
# Scores of a run on worlds of one difficulty, each a share.
SCORES: dict[str, Callable[[dict, str], float]] = {
    "zero-shot": lambda scores, kind: scores["difficulty"][kind]["zero_shot"],
    "pairs": lambda scores, kind: scores["difficulty"][kind]["pairs"]["mean"],
    "R@1": lambda scores, kind: scores["difficulty"][kind]["r1"],
    "probes": lambda scores, kind: scores["probes"][kind]["mean"],
}
GUESSED = "chance, most frequent answer"
MATCHED = {"flops": "the same training FLOPs", "samples": "the same clips seen"}


def write_report(record: dict, out: Path) -> None:
    """Write the tables and pictures of the parts that the record has."""
    found = {name: part["results"] for name, part in record.items() if part["results"]}
    made = {name: how_made(part) for name, part in record.items()}
    compared = {name: found[name] for name in MATCHED if name in found}
    if compared:
        tables = [f"{made[name]}\n\n{comparison_table(results)}" for name, results in compared.items()]
        write_text(out / "comparison.md", "\n\n".join(tables) + "\n")
        for name, results in compared.items():
            plot_scenes(results, out / f"scenes_{name}.png")
    if "flops" in compared:
        plot_curves(compared["flops"], out / "accuracy_against_flops.png")
    if "costs" in found:
        write_text(out / "costs.md", f"{made['costs']}\n\n{cost_table(found['costs'])}\n")
        plot_tokens(found["costs"], out / "tokens_against_duration.png")
    if "ablations" in found:
        steps = (
            f"TrajViT2 after {found['ablations'][0]['steps']} steps (per cent, mean ± standard deviation over seeds):"
        )
        table = ablation_table(found["ablations"])
        write_text(out / "ablations.md", f"{made['ablations']}\n\n{steps}\n\n{table}\n")
        plot_quality(found["ablations"], out / "quality_against_accuracy.png")


def how_made(part: dict) -> str:
    """The settings that a reader of a table needs."""
    settings, results = part["settings"], part["results"]
    minutes = sum(result.get("seconds", 0) for result in results if "steps" in result) / 60
    commits = sorted({result["versions"]["commit"] for result in results if "versions" in result})
    told = [f"commit {', '.join(commits or [part['versions']['commit']])}"]
    if minutes:
        told += [f"{settings['clips']} training clips", f"{settings['held_out_clips']} held-out clips of each kind"]
        number = len({result["seed"] for result in results})
        told += [f"{number} seed{'s' if number > 1 else ''}", f"mixed precision: {settings['mixed_precision']}"]
        told += [f"{minutes:.0f} minutes in all"]
    return f"Made by `examples/controlled_experiment.py` ({', '.join(told)})."


def groups_of(results: Sequence[dict], key: str) -> dict[str, list[dict]]:
    """Runs of the same name, in the order in which they came."""
    groups = {}
    for result in results:
        groups.setdefault(result[key], []).append(result)
    return groups


def over_worlds(scores: dict, score: str) -> float:
    """Mean of one of `SCORES` over the difficulties."""
    return float(np.mean([SCORES[score](scores, kind) for kind in MIXED]))


def comparison_table(results: Sequence[dict]) -> str:
    """What was trained with its scores, scores by difficulty and scores by what is asked, in per cent over seeds."""
    told = "per cent, mean ± standard deviation over seeds; tokens: on default worlds, of ToMe those that are left"
    return "\n\n".join(
        [
            f"With {MATCHED[results[0]['matched']]} ({told}):",
            overall_table(results),
            "By difficulty of the worlds:",
            difficulty_table(results),
            "By what two captions differ in, and what a probe reads:",
            question_table(results),
        ]
    )


def overall_table(results: Sequence[dict]) -> str:
    """What was trained, and the means of `SCORES` over the difficulties."""
    rows = []
    for name, runs in groups_of(results, "system").items():
        tokens = np.mean([run["scores"]["difficulty"]["default"]["tokens"] for run in runs])
        row = [name, f"{runs[0]['parameters'] / 1e6:.2f} M", str(runs[0]["steps"])]
        row += [f"{runs[0]['step_flops'] / 1e9:.0f}", f"{tokens:.0f}"]
        rows.append(row + [spread([over_worlds(run["scores"], score) for run in runs]) for score in SCORES])
    chance = [spread([np.mean(list(own.values()))]) for own in guessed(results[0]).values()]
    titles = ["system", "trained weights", "steps", "GFLOP per step", "tokens", *SCORES]
    return markdown_table(titles, [*rows, [GUESSED, *[""] * 4, *chance]])


def difficulty_table(results: Sequence[dict]) -> str:
    """`SCORES` on worlds of each difficulty."""
    rows = [
        [name, *(spread([of(run["scores"], kind) for run in runs]) for of in SCORES.values() for kind in MIXED)]
        for name, runs in groups_of(results, "system").items()
    ]
    chance = [spread([own[kind]]) for own in guessed(results[0]).values() for kind in MIXED]
    return markdown_table(
        ["system", *(f"{score}, {kind}" for score in SCORES for kind in MIXED)], [*rows, [GUESSED, *chance]]
    )


def question_table(results: Sequence[dict]) -> str:
    """Pairs of captions by the attribute in which they differ, probes by question, means over the difficulties."""

    def over(by_difficulty: dict[str, dict], name: str) -> float:
        return float(np.mean([by_difficulty[kind][name] for kind in MIXED]))

    rows = []
    for name, runs in groups_of(results, "system").items():
        pairs = [{kind: run["scores"]["difficulty"][kind]["pairs"] for kind in MIXED} for run in runs]
        row = [name, *(spread([over(own, attribute) for own in pairs]) for attribute in ATTRIBUTES)]
        rows.append(row + [spread([over(run["scores"]["probes"], asked) for run in runs]) for asked in QUESTIONS])
    majority = results[0]["scores"]["majority"]
    chance = [GUESSED, *["50.0"] * len(ATTRIBUTES), *(spread([over(majority, asked)]) for asked in QUESTIONS)]
    titles = ["system", *(f"pairs: {name}" for name in ATTRIBUTES), *(f"probe: {name}" for name in QUESTIONS)]
    return markdown_table(titles, [*rows, chance])


def guessed(result: dict) -> dict[str, dict[str, float]]:
    """What chance gets of each of `SCORES`, or of the probes the most frequent answer, by difficulty."""
    return {
        "zero-shot": dict.fromkeys(MIXED, 1 / NUM_CANDIDATES),
        "pairs": dict.fromkeys(MIXED, 0.5),
        "R@1": dict.fromkeys(MIXED, 1 / result["held_out_clips"]),
        "probes": {kind: result["scores"]["majority"][kind]["mean"] for kind in MIXED},
    }


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
    return markdown_table(titles, lines)


def ablation_table(results: Sequence[dict]) -> str:
    """Accuracy and quality of the trajectories, mean ± standard deviation over seeds in per cent."""
    titles = ["TrajViT2 with", "tokens", *SCORES, "FG-ARI", "VEQ", "STQ-EN"]
    rows = []
    for name, runs in groups_of(results, "variation").items():
        scores = [run["scores"] for run in runs]
        row = [name, f"{np.mean([one['difficulty']['default']['tokens'] for one in scores]):.0f}"]
        row += [spread([over_worlds(one, score) for one in scores]) for score in SCORES]
        row += [spread([run["segmentation"][score] for run in runs]) for score in ("fg_ari", "veq", "stq_en")]
        rows.append(row)
    return markdown_table(titles, rows)


def plot_curves(results: Sequence[dict], path: Path) -> None:
    """Zero-shot accuracy, pairs and retrieval, means over the worlds, against the training FLOPs spent."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    kinds = {"zero_shot": "zero-shot accuracy, %", "pairs": "pairs of captions told apart, %", "r1": "R@1, %"}
    for axis, (score, title) in zip(axes, kinds.items(), strict=True):
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
    """On default worlds: retrieval against the number of objects and against the length of clips."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, runs in groups_of(results, "system").items():
        counts = [run["scores"]["difficulty"]["default"]["by_objects"] for run in runs]
        hits = np.array([[100 * right / asked for right, asked in one.values()] for one in counts])
        numbers = [int(number) for number in counts[0]]
        _line(axes[0], numbers, hits, name)
        frames = [int(count) for count in runs[0]["scores"]["frames"]]
        values = [[100 * run["scores"]["frames"][str(count)]["r1"] for count in frames] for run in runs]
        _line(axes[1], frames, np.array(values), name)
    axes[0].set_xticks(numbers)
    axes[0].set(xlabel="objects in the world", ylabel="clips found by their caption, default worlds, %")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(frames, [str(count) for count in frames])
    axes[1].set(xlabel="frames of the clip", ylabel="R@1 on default worlds, %")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    _save(figure, path)


def plot_quality(results: Sequence[dict], path: Path) -> None:
    """Accuracy of each run against the quality of its trajectories."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    kinds = {"fg_ari": "FG-ARI, %", "veq": "VEQ, %", "stq_en": "STQ-EN, %"}
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for place, (name, runs) in enumerate(groups_of(results, "variation").items()):
            quality = [100 * run["segmentation"][kind] for run in runs]
            values = [100 * over_worlds(run["scores"], "R@1") for run in runs]
            axis.plot(quality, values, linestyle="", color=f"C{place % 10}", marker="os^"[place // 10], label=name)
        axis.set(xlabel=title, ylabel="R@1, %")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=7)
    _save(figure, path)


def _line(axis: Axes, places: Sequence[float], values: np.ndarray, name: str) -> None:
    """Mean over runs (rows of ``values``) with a band of one standard deviation."""
    mean, deviation = values.mean(axis=0), sample_deviation(values)
    axis.plot(places, mean, marker="o", color=COLOURS[name], label=name)
    axis.fill_between(places, mean - deviation, mean + deviation, color=COLOURS[name], alpha=0.15, linewidth=0)


def _save(figure: plt.Figure, path: Path) -> None:
    write_whole(path, lambda part: figure.savefig(part, dpi=110, format="png"))
    plt.close(figure)
