"""Trajectory tokens against dense patches, merged, left-out and learnt tokens: the same data, text tower and training.

Every system reads the features of the same frozen patch encoder (trajtok-tiny's), starts with the same text encoder
(trajvit2-tiny's), has as many trained weights as the others to within half a block, and learns from the same worlds of
three difficulties with the same contrastive loss at the same rates; only how it makes and mixes tokens differs:
    trajvit2, given-trajectories (the true masks: an oracle), vit3d (all patches), tome, rlt, tokenlearner
Two ways to be fair, each with several seeds:
    flops    every system trains until it has spent the same training FLOPs: cheap tokens see more clips
    samples  every system sees as many clips as the dearest can for those FLOPs
TrajViT2's segmenter was trained with masks before (that is what trajtok-tiny is) and stays as it is; the FLOPs of that
training are not counted, and the other systems have no use for it beyond the patch encoder. The text encoder was
trained beside a TrajViT2, on other worlds, and the learning rate was found with one. FLOPs are counted from the pixels
on, though frozen features are computed once, and of each clip alone, so that RLT pays for no padding.

What you will see: progress bars, then tables, and in `--out` a JSON record, tables and plots, kept up to date while it
runs. An experiment that was stopped goes on where it was. A part's results are what the last call asked for; a call
for more finds the runs of earlier ones.

    python examples/controlled_experiment.py --mixed-precision bf16                        # hours on two CPU cores
    python examples/controlled_experiment.py --parts costs --frames 4 8 --out runs/costs   # FLOPs, tokens, latency
    python examples/controlled_experiment.py --parts ablations --mixed-precision bf16      # single decisions changed
    python examples/controlled_experiment.py --parts flops --systems trajvit2 vit3d --seeds 1 --budget-tflop 1 \
        --clips 600 --out runs/glimpse                                                     # a glimpse

Needs: ``pip install -e ".[train,viz]"``; the shipped checkpoints.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evaluation import summarise
from evaluation.provenance import checkpoint_record, settings_record, versions
from evaluation.segmenter_evaluation import evaluate_segmenter
from experiment.costs import inference_costs, training_flops
from experiment.report import write_report
from experiment.scores import caption_scores, majority_scores, probe_scores, see
from experiment.systems import (
    SYSTEMS,
    VARIATIONS,
    Shared,
    Sizes,
    Variation,
    build_system,
    build_variation,
    num_trained,
    trajectory_tower,
)
from experiment.worlds_mix import HELD_OUT_SEED, MIXED, TRAINING_SEED, CachedRecords, MixedWorlds, worlds_of
from storage import write_text
from tqdm import tqdm
from training.caption_views import CaptionCollator, CaptionViews
from training.clip_cache import ClipCache
from training.contrastive_training import ContrastiveTraining
from training.frozen_features import FrozenFeatures
from training.loop import build_accelerator, run_training
from training.recipe import TrajViT2Recipe
from transformers import AutoTokenizer

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor, TrajViT2Model

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("costs", "flops", "samples", "ablations")
LONGER = (8, 16, 32)  # frames of held-out clips beyond those of training
RENDERED_FRAMES = 8  # of which training sees some: of as few, worlds would lack motions
NUM_PROBE_CLIPS = 768
REPORT_EVERY_S = 60


class TrueTrajectoryViews(CaptionViews):
    """Views with the true ids as trajectories."""

    def __getitem__(self, view: int) -> dict:
        example = super().__getitem__(view)
        return example | {"trajectory_ids": example["ids"]}


class Experiment:
    """Clips, checkpoints and runs.

    Args:
        settings: of the command line.
    """

    def __init__(self, settings: argparse.Namespace):
        self.settings, self.sizes = settings, Sizes()
        self.checkpoints = [checkpoint_record(settings.trajtok), checkpoint_record(settings.texts)]
        self.segmenter = TrajTokModel.from_pretrained(settings.trajtok, dtype=torch.float32)
        texts = TrajViT2Model.from_pretrained(settings.texts, dtype=torch.float32)
        self.shared = Shared(self.sizes, self.segmenter, texts)
        self.tokenizer = AutoTokenizer.from_pretrained(settings.texts)
        self.tokenizer.model_max_length = texts.config.text_config.max_position_embeddings
        weights = [checkpoint["sha256"] for checkpoint in self.checkpoints]
        self.facts = {"weights": weights, "sizes": vars(self.sizes), "mixed_precision": settings.mixed_precision}

    def folder(self, name: str, **facts: object) -> Path:
        """Where something is kept that depends on all of this and on further facts."""
        told = json.dumps(self.facts | facts, sort_keys=True, default=str)
        return self.settings.runs / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def cache(self, name: str, clips: Sequence, num_frames: int) -> ClipCache:
        """Clips rendered once, so many frames of each."""
        size_px = self.sizes.size_px
        folder = self.settings.runs / "clips" / f"{name}-{len(clips)}-{num_frames}-frames-{size_px}-px"
        return ClipCache(clips, folder, num_frames=num_frames, size_px=size_px)

    def training_clips(self) -> ClipCache:
        """Worlds of all difficulties in turn."""
        clips = MixedWorlds(self.settings.clips, RENDERED_FRAMES, self.sizes.size_px, seed=TRAINING_SEED)
        return self.cache(f"training-{TRAINING_SEED}", clips, self.sizes.num_frames)

    def held_out(self, difficulty: str, num_frames: int) -> CachedRecords:
        """Held-out worlds of one difficulty, the same ones at every length."""
        number, size_px = self.settings.held_out_clips, self.sizes.size_px
        clips = worlds_of(difficulty, number, max(LONGER), size_px, seed=HELD_OUT_SEED)
        return CachedRecords(self.cache(f"{difficulty}-{HELD_OUT_SEED}", clips, num_frames), number)

    def recipe(
        self, seed: int, num_steps: int, *, segmentation: bool = False, num_evaluations: int = 3
    ) -> TrajViT2Recipe:
        """Of any run."""
        return TrajViT2Recipe(
            batch_size=self.settings.batch_size,
            num_steps=num_steps,
            learning_rate=7e-4,
            rate_factors={"video_model.trajtok.segmenter.": 0.5},
            warmup_steps=min(50, num_steps // 4),
            seed=seed,
            num_workers=1,
            size_px=self.sizes.size_px,
            num_frames=self.sizes.num_frames,
            max_text_length=self.tokenizer.model_max_length,
            altered_captions=2,
            named_trajectories=0,
            segmentation=segmentation,
            checkpoint_every=max(100, num_steps // 4),
            evaluate_every=max(1, -(-num_steps // num_evaluations)),
        )

    def views(self, name: str, recipe: TrajViT2Recipe, *, cached: bool = False) -> CaptionViews:
        """Training views of a system; ``cached`` ones have the frozen segmenter's features instead of pixels."""
        clips = self.training_clips()
        if cached:
            features = FrozenFeatures(clips, clips.folder, self.segmenter)
            features.compute()
            return CaptionViews(clips, recipe, features)
        return (TrueTrajectoryViews if name == "given-trajectories" else CaptionViews)(clips, recipe)

    def step_flops(self, name: str) -> float:
        """FLOPs of a step, measured once for a system."""
        recipe = self.recipe(0, 100)
        known = self.folder(f"flops-{name}", recipe=asdict(recipe), clips=self.settings.clips) / "flops.json"
        if not known.is_file():
            views, collate = self.views(name, recipe), CaptionCollator(self.tokenizer, recipe.max_text_length, False)
            size = recipe.batch_size
            batches = [collate([views[first + place] for place in range(size)]) for first in (0, size)]
            write_json(known, training_flops(ContrastiveTraining(self.build(name, 0), 0.0), batches))
        return read_json(known)

    def steps_for_budget(self) -> dict[str, tuple[int, float]]:
        """Steps that each system can make for the budget, and the FLOPs of one."""
        flops = {name: self.step_flops(name) for name in tqdm(SYSTEMS, desc="FLOPs of a step", leave=False)}
        return {name: (max(1, round(self.settings.budget_tflop * 1e12 / one)), one) for name, one in flops.items()}

    def build(self, name: str, seed: int) -> TrajViT2Model:
        """A new model of a system."""
        return build_system(name, self.shared, seed)

    def quick_scores(self, model: TrajViT2Model) -> dict[str, float]:
        """Zero-shot, pairs and retrieval by difficulty."""
        scores = {}
        for difficulty in MIXED:
            seen = see(model, self.held_out(difficulty, self.sizes.num_frames))
            found = caption_scores(model, self.tokenizer, seen)
            found |= {"pairs": found["pairs"]["mean"]}
            scores |= {f"{name}/{difficulty}": found[name] for name in ("zero_shot", "pairs", "motion", "r1")}
        return scores

    def all_scores(self, model: TrajViT2Model, longer: Sequence[int] = ()) -> dict:
        """By difficulty, by length of clip, and of probes."""
        frames = self.sizes.num_frames
        seen = {name: see(model, self.held_out(name, frames)) for name in MIXED}
        training = see(model, CachedRecords(self.training_clips(), NUM_PROBE_CLIPS))
        difficulty = {name: caption_scores(model, self.tokenizer, own) for name, own in seen.items()}
        by_frames = {frames: difficulty["default"]}
        for count in longer:
            by_frames[count] = caption_scores(model, self.tokenizer, see(model, self.held_out("default", count)))
        return {
            "difficulty": difficulty,
            "probes": {name: probe_scores(training, own) for name, own in seen.items()},
            "majority": {name: majority_scores(training.records, own.records) for name, own in seen.items()},
            "frames": {
                str(count): {name: found[name] for name in ("zero_shot", "pairs", "r1", "tokens")}
                for count, found in by_frames.items()
            },
        }

    def train(
        self,
        label: str,
        build: Callable[[], TrajViT2Model],
        recipe: TrajViT2Recipe,
        name: str,
        variation: Variation | None = None,
    ) -> dict:
        """Train and judge a system, or a variation of TrajViT2, unless that has been done."""
        numbers = {"clips": self.settings.clips, "held_out_clips": self.settings.held_out_clips}
        told = {"recipe": asdict(recipe), "variation": asdict(variation or Variation()), **numbers}
        folder = self.folder(f"{label}-{recipe.num_steps}-steps-seed-{recipe.seed}", **told)
        finished, cached = folder / "result.json", name == "trajvit2" and (variation is None or variation.frozen)
        if finished.is_file():
            return read_json(finished)
        started = time.time()
        accelerator = build_accelerator(recipe, self.settings.mixed_precision, every_step_trains_all=False)
        model = build()
        run_training(
            recipe,
            accelerator,
            folder,
            module=ContrastiveTraining(model, 0.0),
            model=model,
            clips=self.training_clips(),
            views=self.views(name, recipe, cached=cached),
            collate=CaptionCollator(self.tokenizer, recipe.max_text_length, recipe.segmentation),
            evaluate=self.quick_scores if variation is None else lambda trained: {},
            save_final=lambda trained, place: None,
            shown_score="zero_shot/default",
        )
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result = {
            "seed": recipe.seed,
            "steps": recipe.num_steps,
            **numbers,
            "versions": versions(),
            "parameters": num_trained(model.video_model),
            "curve": [line for line in lines if "held_out/zero_shot/default" in line],
            "scores": self.all_scores(model, LONGER if variation is None else ()),
            "seconds": round(time.time() - started, 1),
        }
        if name == "trajvit2":
            result["segmentation"] = self.segmentation_scores(model)
        write_json(finished, result)
        return result

    def segmentation_scores(self, model: TrajViT2Model) -> dict[str, float]:
        """How good the trajectories are, on the held-out worlds of medium difficulty."""
        size = {"height": self.sizes.size_px, "width": self.sizes.size_px}
        clips = self.held_out("default", self.sizes.num_frames)
        found = list(evaluate_segmenter(trajectory_tower(model).trajtok, TrajTokVideoProcessor(size=size), clips))
        return {name: values["mean"] for name, values in summarise(found).items()}

    def compare(self, matched: str) -> Iterator[dict]:
        """All systems with all seeds, matched in training FLOPs or in clips seen."""
        steps = self.steps_for_budget()
        fewest = min(number for number, _ in steps.values())
        for seed in range(self.settings.seeds):
            for name in dict.fromkeys(self.settings.systems):
                number, flops = steps[name]
                recipe = self.recipe(seed, fewest if matched == "samples" else number)
                result = self.train(name, partial(self.build, name, seed), recipe, name)
                yield {"system": name, "matched": matched, "step_flops": flops, **result}

    def vary(self) -> Iterator[dict]:
        """TrajViT2 with single decisions changed, as many steps each."""
        for seed in range(self.settings.seeds):
            for name in dict.fromkeys(self.settings.variations):
                variation = VARIATIONS[name]
                recipe = self.recipe(
                    seed, self.settings.ablation_steps, segmentation=variation.segmentation, num_evaluations=1
                )
                slug = "".join(letter if letter.isalnum() else "-" for letter in name)
                build = partial(build_variation, variation, self.shared, seed)
                yield {"variation": name, **self.train(slug, build, recipe, "trajvit2", variation)}

    def costs(self) -> Iterator[dict]:
        """Of looking at clips of all lengths, each in a process of its own."""
        todo = [(name, frames) for frames in self.settings.frames for name in self.settings.systems]
        for name, frames in tqdm(todo, desc="costs"):
            finished = self.folder(f"costs-{name}-{frames}-frames", clips=self.settings.cost_clips) / "costs.json"
            if not finished.is_file():
                command = [sys.executable, __file__, "--cost-of", name, "--frames", str(frames)]
                command += ["--trajtok", self.settings.trajtok, "--texts", self.settings.texts]
                command += ["--cost-clips", str(self.settings.cost_clips)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                write_json(finished, {**json.loads(done.stdout), "versions": versions()})
            yield {"system": name, "frames": frames, **read_json(finished)}

    def cost_of(self, name: str, frames: int) -> dict[str, float]:
        """One row of `costs`, in this process."""
        clips = worlds_of("default", self.settings.cost_clips, frames, self.sizes.size_px, seed=HELD_OUT_SEED)
        return inference_costs(lambda: self.build(name, 0), [clips[index] for index in range(len(clips))])

    def run(self) -> None:
        """Do what has not been done; the record follows after every result, tables and pictures now and then."""
        path = self.settings.out / "controlled.json"
        record = read_json(path) if path.is_file() else {}
        work = {
            "costs": self.costs,
            "flops": partial(self.compare, "flops"),
            "samples": partial(self.compare, "samples"),
            "ablations": self.vary,
        }
        for part in self.settings.parts:
            record[part] = {
                "settings": settings_record(self.settings),
                "sizes": vars(self.sizes),
                "checkpoints": self.checkpoints,
                "versions": versions(),
                "results": [],
            }
            reported = time.monotonic()
            for result in work[part]():
                record[part]["results"].append(result)
                write_json(path, record)
                if time.monotonic() - reported > REPORT_EVERY_S:
                    write_report(record, self.settings.out)
                    reported = time.monotonic()
            write_report(record, self.settings.out)


def read_json(path: Path) -> Any:
    """Values of a file that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, values: object) -> None:
    """Values as JSON; the file is whole or not there."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--variations", nargs="+", choices=VARIATIONS, default=list(VARIATIONS), help="of ablations")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--budget-tflop", type=float, default=20.0, help="training FLOPs of a run, in 1e12")
    parser.add_argument("--ablation-steps", type=int, default=300)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128], help="of the costs")
    parser.add_argument("--cost-clips", type=int, default=4, help="clips whose costs are averaged")
    parser.add_argument("--clips", type=int, default=6000, help="to learn from")
    parser.add_argument("--held-out-clips", type=int, default=96, help="of each difficulty and length")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--trajtok", default=str(ROOT / "checkpoints" / "trajtok-tiny"), help="encoder, segmenter")
    parser.add_argument("--texts", default=str(ROOT / "checkpoints" / "trajvit2-tiny"), help="tokenizer, text encoder")
    parser.add_argument("--runs", type=Path, default=Path("runs/controlled"), help="folder of clips and runs")
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "results")
    parser.add_argument("--cost-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    try:
        experiment = Experiment(settings)
        if settings.cost_of:
            json.dump(experiment.cost_of(settings.cost_of, settings.frames[0]), sys.stdout)
            return 0
        experiment.run()
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    for name in ("comparison", "costs", "ablations"):
        table = settings.out / f"{name}.md"
        if table.is_file():
            print(table.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
