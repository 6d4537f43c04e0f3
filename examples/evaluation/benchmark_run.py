"""What evaluations on public benchmarks share: their options, the embedding of videos, the record and its failures.

In:   arguments of the command line, the videos of a benchmark
Out:  embeddings; a record with all that is needed to get the same numbers again, on the screen and as JSON
To:   evaluate_retrieval.py, evaluate_zero_shot.py; question_run, without embeddings
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from storage import write_text

from modeling_trajtok import TrajViT2Model, TrajViT2Processor

from .embedding_cache import EmbeddingCache, VideoEmbeddings, VideoRequest, embed_videos, embedding_key
from .provenance import checkpoint_record, versions

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
SHOWN_FAILURES = 5


def add_checkpoint_arguments(parser: argparse.ArgumentParser, checkpoint: str, kind: str) -> None:
    """Options of every evaluation: a checkpoint (by default this one of ours), of a kind of model, and its use."""
    parser.add_argument("--model", default=str(CHECKPOINTS / checkpoint), help=f"folder or Hub name of a {kind}")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-frames", type=int, help="frames per video (default: as the model was trained)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the checkpoint, of the embedding and of the record."""
    add_checkpoint_arguments(parser, "trajvit2-tiny", "TrajViT2Model")
    parser.add_argument("--cache", type=Path, default=Path("out/embeddings"), help="folder for embeddings of videos")
    parser.add_argument("--out", type=Path, help="JSON file for the record")


class CheckpointRun:
    """A checkpoint, loaded, and what it came from.

    Args:
        settings: with what `add_checkpoint_arguments` asks for.
        model_class: with a ``from_pretrained``.
        processor_class: of the model.

    Attributes:
        model: in evaluation mode, on its device.
        processor: of the model.
        num_frames: per video; None if neither the settings nor the subclass's model fix it.

    Raises:
        OSError: the checkpoint lacks a file.
        ValueError: no batch to work with.
    """

    num_frames: int | None = None

    def __init__(self, settings: argparse.Namespace, model_class: type, processor_class: type):
        if settings.batch_size < 1:
            raise ValueError(f"batch_size is {settings.batch_size}, expected at least 1.")
        self.settings = settings
        self.checkpoint = checkpoint_record(settings.model)
        self.model = model_class.from_pretrained(settings.model, dtype=torch.float32).eval().to(settings.device)
        self.processor = processor_class.from_pretrained(settings.model)

    def record(self, task: str, scores: dict, counts: dict[str, int], failures: list[dict], **facts) -> dict:
        """What came out, and what it came from.

        Args:
            task: its name.
            scores: of the task.
            counts: of anything.
            failures: {"video", "error"} of each video that could not be read.
            **facts: more fields.
        """
        settings = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(self.settings).items()
        }
        return {
            "task": task,
            "scores": scores,
            "counts": counts,
            "failures": failures,
            **facts,
            "checkpoint": self.checkpoint,
            "config_sha256": self.checkpoint["sha256"]["config.json"],
            "settings": {**settings, "num_frames": self.num_frames},
            "processor": self.processor.video_processor.to_dict(),
            "versions": versions(),
        }


class BenchmarkRun(CheckpointRun):
    """A TrajViT2 checkpoint that embeds the videos of a benchmark.

    Args:
        settings: with what `add_arguments` asks for.
    """

    def __init__(self, settings: argparse.Namespace):
        super().__init__(settings, TrajViT2Model, TrajViT2Processor)
        self.num_frames = settings.num_frames or self.model.config.num_frames
        self.key = embedding_key(self.checkpoint, self.processor.video_processor, self.num_frames)

    def embed(self, requests: Sequence[VideoRequest]) -> VideoEmbeddings:
        """See `embed_videos`, for its errors too."""
        return embed_videos(
            self.model,
            self.processor.video_processor,
            requests,
            cache=EmbeddingCache(self.settings.cache, self.key),
            num_frames=self.num_frames,
            batch_size=self.settings.batch_size,
        )

    def record(self, task: str, scores: dict, videos: VideoEmbeddings, counts: dict[str, int], **facts) -> dict:
        """What came out, and what it came from.

        Args:
            task: its name.
            scores: of the task.
            videos: what became of the videos.
            counts: of anything but videos.
            **facts: more fields.
        """
        counts = {
            "videos_listed": len(videos.kept) + len(videos.failures),
            "videos": len(videos.kept),
            "videos_unreadable": len(videos.failures),
            "videos_from_cache": videos.num_from_cache,
            **counts,
        }
        return super().record(task, scores, counts, videos.failures, embedding_key=self.key, **facts)


def show_failures(record: dict) -> None:
    """Print the first videos that could not be read, if there are any."""
    failures = record["failures"]
    if failures:
        listed = record["counts"]["videos_listed"]
        print(f"\n{len(failures)} of {listed} videos could not be read and were left out:")
        for failure in failures[:SHOWN_FAILURES]:
            print(f"  {failure['video']}: {failure['error']}")
        if len(failures) > SHOWN_FAILURES:
            print("  ... (all of them are in the record, see --out)")


def run_benchmark(
    settings: argparse.Namespace,
    evaluate: Callable[[argparse.Namespace], dict],
    show: Callable[[dict], None],
    file: Path | None,
) -> int:
    """Evaluate, keep the record in a JSON file, show it; returns the exit status, 1 after an error of one line."""
    started = time.time()
    try:
        record = evaluate(settings)
        record["seconds"] = round(time.time() - started, 3)
        if file:
            write_text(file, json.dumps(record, indent=1))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    show(record)
    show_failures(record)
    return 0
