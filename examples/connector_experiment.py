"""Trajectories against mean pooling in front of the same language model, with the same training.

Each way of making visual tokens starts from the same frozen patch features and ends in a copy of the same language
model, that of a trained TrajVLM. Connector and language model are trained together, the same steps on the same
conversations; only the tokens differ:
    trajectories   one token for each of the segmenter's K trajectories, over the whole video
    pooling        as many tokens, each the mean over a cell of a grid over space and time
    pooling x4     four times as many
The backbone was trained to segment and for nothing else.

What you will see: progress bars, then a table of exact match over the types of questions (mean and standard deviation
over seeds), and in `--out` the table, a plot and a JSON record. A run that was stopped goes on where it was.

    python examples/connector_experiment.py                                       # hours on two CPU cores
    python examples/connector_experiment.py --frames 8 --seeds 1 --steps 20       # a glimpse

Needs: ``pip install -e ".[train,viz]"``, `checkpoints/trajvlm-tiny`.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from evaluation.provenance import checkpoint_record, settings_record, versions, weights_hash
from evaluation.question_evaluation import MAX_ANSWER_TOKENS, AnswerScores
from evaluation.tables import markdown_table, sample_deviation, spread
from evaluation.video_prompts import EncodedVideo, generate_answers, video_prompts
from storage import write_text, write_whole
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from training.chat_training import AnswerTraining
from training.chat_views import choose_questions, pack_apart, question_turns, turns_apart, with_labels, with_video
from training.clip_cache import open_clips
from training.connectors import MeanPoolingConnector, TrajectoryConnector
from training.loop import build_accelerator, run_training
from training.patch_cache import PatchCache
from training.recipe import ClipSource, LoopRecipe

from modeling_trajtok import (
    TrajTokSegmenterModel,
    TrajVLMConfig,
    TrajVLMFeatures,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)
from modeling_trajtok.grid_ops import GridSize

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
POOLING_CELLS = {"pooling": (2, 4, 4), "pooling x4": (8, 4, 4)}  # 32 and 128 cells
CONNECTORS = ("trajectories", *POOLING_CELLS)
PATCH_PX = 8
NUM_TRAINING_CLIPS, NUM_HELD_OUT_CLIPS = 1000, 64
TRAINING_SEED, HELD_OUT_SEED = 5, 1000004


@dataclass
class ConnectorRecipe(LoopRecipe):
    """A run of the experiment.

    Attributes:
        questions_per_clip: each asked on its own, the types of questions in turn.
    """

    questions_per_clip: int = 8


class CachedConversations(Dataset):
    """View j: what a connector reads of a clip, and conversations about it of one question each."""

    def __init__(self, cache: PatchCache, recipe: ConnectorRecipe):
        self.cache, self.recipe = cache, recipe

    def __len__(self) -> int:
        return self.recipe.num_steps * self.recipe.batch_size

    def __getitem__(self, view: int) -> tuple[dict[str, Tensor], list[list[dict]]]:
        epoch, position = divmod(view, len(self.cache))
        clip = np.random.default_rng([self.recipe.seed, 0, epoch]).permutation(len(self.cache))[position]
        rng = np.random.default_rng([self.recipe.seed, 1, view])
        questions = choose_questions(self.cache.questions(clip), rng, self.recipe.questions_per_clip)
        return self.cache.read(clip), [with_video(turn, None) for turn in turns_apart(question_turns(questions))]


class CachedCollator:
    """Views to tensors; only what the assistant says is learnt."""

    def __init__(self, processor: TrajVLMProcessor, num_tokens: int):
        self.processor, self.num_tokens = processor, num_tokens

    def __call__(self, views: Sequence[tuple[dict[str, Tensor], list[list[dict]]]]) -> dict[str, Tensor]:
        """Stacked patches of the views, and their conversations as `pack_conversations` gives them."""
        shown = self.processor.video_token
        batch = self.processor.tokenizer.apply_chat_template(
            [conversations[0] for _, conversations in views],
            chat_template=self.processor.chat_template.replace(shown, shown * self.num_tokens),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            return_assistant_tokens_mask=True,
        )
        patches = {name: torch.stack([read[name] for read, _ in views]) for name in views[0][0]}
        told = {name: batch[name] for name in ("input_ids", "attention_mask", "assistant_masks")}
        return patches | pack_apart(with_labels(told), [conversations for _, conversations in views], self.processor)


class ConnectedModel(nn.Module):
    """A connector in front of a language model.

    Args:
        connector: patches to tokens.
        model: whose language model reads them; its own vision tower is not used.
        grid: of the patches.
    """

    def __init__(self, connector: nn.Module, model: TrajVLMForConditionalGeneration, grid: GridSize):
        super().__init__()
        for part in (model.model.vision_tower, model.model.grouping):
            part.requires_grad_(False)
        self.connector, self.answering, self.grid = connector, AnswerTraining(model), grid

    def tokens(self, patch_features: Tensor, trajectory_ids: Tensor, queries: Tensor) -> Tensor:
        """What the language model reads, (B, n, d)."""
        return self.connector(patch_features, trajectory_ids, queries, self.grid)

    def forward(
        self, labels: Tensor, conversations: Tensor, input_ids: Tensor, position_ids: Tensor, **patches: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch of `CachedCollator`."""
        features = TrajVLMFeatures(pooler_output=list(self.tokens(**patches)))
        return self.answering(
            labels,
            conversations,
            input_ids=input_ids,
            position_ids=position_ids,
            mm_encoder_outputs={"video": features},
        )


@torch.no_grad()
def evaluate(model: ConnectedModel, cache: PatchCache, processor: TrajVLMProcessor) -> dict[str, float]:
    """Exact match on all questions about the cached clips."""
    model.eval()
    scores, language = AnswerScores(), model.answering.model
    for clip in tqdm(range(len(cache)), desc="held-out clips", leave=False):
        questions = cache.questions(clip)
        patches = {name: value.unsqueeze(0).to(language.device) for name, value in cache.read(clip).items()}
        [tokens] = model.tokens(**patches)
        video = EncodedVideo((processor.video_token_id,) * len(tokens), tokens)
        prompts = video_prompts(processor, video, [question["question"] for question in questions])
        scores.add(questions, generate_answers(language, processor, prompts, MAX_ANSWER_TOKENS))
    model.train()
    return scores.summary()


def build(kind: str, model: TrajVLMForConditionalGeneration, segmenter: TrajTokSegmenterModel) -> nn.Module:
    """A new connector between the segmenter's features and the language model."""
    width = segmenter.config.hidden_size
    vision = {"model_type": "siglip_vision_model", "hidden_size": width, "num_attention_heads": width // 32}
    config = TrajVLMConfig(
        vision_config=vision,
        trajtok_config=segmenter.config.to_diff_dict(),
        text_config=model.config.text_config.to_dict(),
        num_connector_heads=width // 32,
        num_connector_layers=1,
    )
    return TrajectoryConnector(config) if kind == "trajectories" else MeanPoolingConnector(config, POOLING_CELLS[kind])


def run(kind: str, frames: int, seed: int, settings: argparse.Namespace, caches: Sequence[PatchCache]) -> dict:
    """Train and judge one connector, unless that has been done."""
    weights = [checkpoint["sha256"] for checkpoint in settings.checkpoints]
    facts = [*weights, settings.steps, settings.clips, settings.held_out_clips, settings.size_px]
    key = hashlib.sha256(json.dumps([*facts, settings.mixed_precision]).encode()).hexdigest()[:12]
    out = settings.runs / key / f"{kind.replace(' ', '-')}-{frames}-frames-seed-{seed}"
    finished = out / "result.json"
    if finished.is_file():
        return json.loads(finished.read_text(encoding="utf-8"))
    started = time.time()
    recipe = ConnectorRecipe(
        batch_size=16,
        num_steps=settings.steps,
        learning_rate=5e-4,
        warmup_steps=20,
        seed=seed,
        checkpoint_every=settings.steps,
        evaluate_every=settings.steps,
    )
    accelerator = build_accelerator(recipe, settings.mixed_precision)
    model = TrajVLMForConditionalGeneration.from_pretrained(settings.model, dtype=torch.float32)
    processor = TrajVLMProcessor.from_pretrained(settings.model)
    processor.tokenizer.padding_side = "left"
    training, held_out = caches
    connected = ConnectedModel(build(kind, model, settings.segmenter), model, training.grid)
    scores = run_training(
        recipe,
        accelerator,
        out,
        module=connected,
        model=connected,
        clips=training,
        views=CachedConversations(training, recipe),
        evaluate=lambda judged: evaluate(judged, held_out, processor),
        save_final=lambda trained, folder: None,
        collate=CachedCollator(processor, connected.connector.num_tokens),
        shown_score="exact_match",
    )
    result = {
        "connector": kind,
        "frames": frames,
        "seed": seed,
        "visual_tokens": connected.connector.num_tokens,
        "connector_parameters": sum(parameter.numel() for parameter in connected.connector.parameters()),
        "scores": scores,
        "seconds": round(time.time() - started, 1),
    }
    write_text(finished, json.dumps(result, indent=1))
    return result


def fill_caches(frames: int, settings: argparse.Namespace) -> list[PatchCache]:
    """Patches of training and held-out worlds of so many frames."""
    caches = []
    for part, seed, count in (
        ("training", TRAINING_SEED, settings.clips),
        ("held-out", HELD_OUT_SEED, settings.held_out_clips),
    ):
        grid = GridSize(frames, settings.size_px // PATCH_PX, settings.size_px // PATCH_PX)
        name = f"{part}-{frames}-frames-{settings.size_px}-px-{count}-clips-{weights_hash(settings.segmenter)[:12]}"
        folder = settings.runs / "patches" / name
        cache = PatchCache(folder, count, grid, settings.segmenter)
        source = ClipSource(seed=seed, num_clips=count, num_frames=frames, difficulty="eventful")
        cache.fill(open_clips(source, settings.size_px), settings.segmenter)
        caches.append(cache)
    return caches


def experiment(settings: argparse.Namespace) -> list[dict]:
    """Run what has not been run, and write record, table and plot."""
    record = {"settings": settings_record(settings)}
    settings.checkpoints = [checkpoint_record(settings.model), checkpoint_record(settings.trajtok)]
    settings.segmenter = TrajTokSegmenterModel.from_pretrained(settings.trajtok, dtype=torch.float32)
    results = []
    for frames in settings.frames:
        caches = fill_caches(frames, settings)
        for seed in range(settings.seeds):
            results += [run(kind, frames, seed, settings, caches) for kind in CONNECTORS]
    record |= {"checkpoints": settings.checkpoints, "results": results, "versions": versions()}
    write_text(settings.out / "connectors.json", json.dumps(record, indent=1) + "\n")
    write_text(settings.out / "connectors.md", table_of(results) + "\n")
    plot(results, settings.out / "connectors.png")
    return results


def table_of(results: Sequence[dict]) -> str:
    """Exact match in per cent over all types and of each: mean and, of several seeds, their standard deviation."""
    kinds = [name for name in results[0]["scores"] if name.startswith("exact_match/")]
    titles = ["connector", "weights", "tokens", "frames", "all", *(name.partition("/")[2] for name in kinds)]
    rows = []
    for frames in sorted({result["frames"] for result in results}):
        of_length = [result for result in results if result["frames"] == frames]
        for connector in CONNECTORS:
            runs = [result for result in of_length if result["connector"] == connector]
            if runs:
                weights, tokens = f"{runs[0]['connector_parameters'] / 1e6:.2f} M", str(runs[0]["visual_tokens"])
                shares = [spread([run["scores"][name] for run in runs]) for name in ("exact_match", *kinds)]
                rows.append([connector, weights, tokens, str(frames), *shares])
        majority = [of_length[0]["scores"][name.replace("exact_match", "majority")] for name in kinds]
        shares = [spread([share]) for share in (np.mean(majority), *majority)]
        rows.append(["most frequent answer", "", "", str(frames), *shares])
    return markdown_table(titles, rows)


def plot(results: Sequence[dict], path: Path) -> None:
    """Exact match against the number of frames, a line for each connector."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    frames = sorted({result["frames"] for result in results})
    for kind, colour in zip(CONNECTORS, ("#D55E00", "#0072B2", "#009E73"), strict=True):
        values = [
            [
                100 * one["scores"]["exact_match"]
                for one in results
                if (one["connector"], one["frames"]) == (kind, count)
            ]
            for count in frames
        ]
        tokens = next(result["visual_tokens"] for result in results if result["connector"] == kind)
        means, deviations = ([of(seeds) for seeds in values] for of in (np.mean, sample_deviation))
        axis.errorbar(frames, means, deviations, marker="o", capsize=3, label=f"{kind}, {tokens} tokens", color=colour)
    axis.set_xscale("log", base=2)
    axis.set_xticks(frames, [str(count) for count in frames])
    axis.set_xlabel("frames of the video")
    axis.set_ylabel("exact match, %")
    axis.grid(alpha=0.3)
    axis.legend()
    write_whole(path, lambda part: figure.savefig(part, dpi=110, format="png"))
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "trajvlm-tiny"), help="a trained TrajVLM")
    parser.add_argument("--trajtok", default=str(ROOT / "checkpoints" / "trajtok-tiny"), help="backbone and segmenter")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--steps", type=int, default=300, help="of training, for each connector")
    parser.add_argument("--clips", type=int, default=NUM_TRAINING_CLIPS)
    parser.add_argument("--held-out-clips", type=int, default=NUM_HELD_OUT_CLIPS)
    parser.add_argument("--size-px", type=int, default=96)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--runs", type=Path, default=Path("runs/connectors"), help="folder of caches and runs")
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "results")
    settings = parser.parse_args(argv)
    try:
        print(table_of(experiment(settings)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
