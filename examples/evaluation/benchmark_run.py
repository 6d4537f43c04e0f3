"""What evaluations on public benchmarks share: their options, the embedding of videos, the record and its failures.

In:   arguments of the command line, the videos of a benchmark
Out:  embeddings; a record with all that is needed to get the same numbers again, on the screen and as JSON
To:   evaluate_retrieval.py, evaluate_zero_shot.py
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from modeling_trajtok import TrajViT2Model, TrajViT2Processor

from .embedding_cache import EmbeddingCache, VideoEmbeddings, VideoRequest, embed_videos, embedding_key
from .provenance import checkpoint_record, versions

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "trajvit2-tiny"
SHOWN_FAILURES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the checkpoint, of the embedding and of the record."""
    parser.add_argument("--model", default=str(CHECKPOINT), help="folder or Hub name of a TrajViT2Model")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-frames", type=int, help="frames per video (default: as the model was trained)")
    parser.add_argument("--cache", type=Path, default=Path("out/embeddings"), help="folder for embeddings of videos")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the record")


class BenchmarkRun:
    """The checkpoint of a run, loaded.

    Args:
        settings: with what `add_arguments` asks for.

    Attributes:
        model: in evaluation mode, on its device.
        processor: of the model.

    Raises:
        OSError: the checkpoint lacks a file.
    """

    def __init__(self, settings: argparse.Namespace):
        self.settings = settings
        self.checkpoint = checkpoint_record(settings.model)
        self.model = TrajViT2Model.from_pretrained(settings.model, dtype=torch.float32).eval().to(settings.device)
        self.processor = TrajViT2Processor.from_pretrained(settings.model)
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
        settings = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(self.settings).items()
        }
        return {
            "task": task,
            "scores": scores,
            "counts": {
                "videos_listed": len(videos.kept) + len(videos.failures),
                "videos": len(videos.kept),
                "videos_unreadable": len(videos.failures),
                "videos_from_cache": videos.num_from_cache,
                **counts,
            },
            "failures": videos.failures,
            **facts,
            "checkpoint": self.checkpoint,
            "config_sha256": self.checkpoint["sha256"]["config.json"],
            "embedding_key": self.key,
            "settings": {**settings, "num_frames": self.num_frames},
            "processor": self.processor.video_processor.to_dict(),
            "versions": versions(),
        }


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
    settings: argparse.Namespace, evaluate: Callable[[argparse.Namespace], dict], show: Callable[[dict], None]
) -> int:
    """Evaluate, keep the record, show it; returns the exit status, 1 after an error of one line."""
    started = time.time()
    try:
        record = evaluate(settings)
        record["seconds"] = round(time.time() - started, 3)
        if settings.out:
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    show(record)
    show_failures(record)
    return 0
