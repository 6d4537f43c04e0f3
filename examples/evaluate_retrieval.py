"""Text-video retrieval of a TrajViT2 checkpoint on a public benchmark: does a text find its video, a video its text?

What you will see: a progress bar over the videos, then R@1, R@5, R@10 and the median rank in both directions, and the
videos that could not be read. ``--out`` keeps all of it as JSON, with what is needed to get the same numbers again. A
run that was stopped goes on where it was, and a second one on the same videos takes seconds: embeddings are kept.

    python examples/evaluate_retrieval.py MSRVTT_JSFUSION_test.csv --videos MSRVTT/videos        # MSR-VTT 1k-A
    python examples/evaluate_retrieval.py didemo_test.json --videos DiDeMo/test                  # texts joined
    python examples/evaluate_retrieval.py val_1.json --videos ActivityNet/val                    # sentences joined
    python examples/evaluate_retrieval.py youcookii_annotations_trainval.json --videos YouCook2  # steps of the recipes
    python examples/evaluate_retrieval.py vatex_test.json --videos VATEX/clips                   # ten texts per video

Videos that are missing leave the gallery, with their texts: such scores do not compare with published ones.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from evaluation.benchmark_files import TEXTS, TEXTS_OF_LAYOUT, VideoFolder, read_retrieval
from evaluation.embedding_cache import EmbeddingCache, VideoRequest, embed_captions, embed_videos, embedding_key
from evaluation.provenance import checkpoint_record, sha256_of, versions
from evaluation.retrieval_metrics import retrieval_scores

from modeling_trajtok import TrajViT2Model, TrajViT2Processor

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "trajvit2-tiny"
SHOWN_FAILURES = 5


def evaluate(settings: argparse.Namespace) -> dict:
    """Everything between the arguments and the record."""
    started = time.time()
    items = read_retrieval(settings.data, settings.layout, settings.texts, settings.subset)
    folder = VideoFolder(settings.videos)
    requests = [VideoRequest(item.video, folder.find(item.video), item.start_s, item.end_s) for item in items]
    checkpoint = checkpoint_record(settings.model)
    model = TrajViT2Model.from_pretrained(settings.model, dtype=torch.float32).eval().to(settings.device)
    processor = TrajViT2Processor.from_pretrained(settings.model)
    num_frames = settings.num_frames or model.config.num_frames
    key = embedding_key(checkpoint, processor.video_processor, num_frames)
    videos = embed_videos(
        model,
        processor.video_processor,
        requests,
        cache=EmbeddingCache(settings.cache, key),
        num_frames=num_frames,
        batch_size=settings.batch_size,
    )
    texts = [(row, caption) for row, index in enumerate(videos.kept) for caption in items[index].captions]
    text_embeds, num_cut = embed_captions(model, processor.tokenizer, [caption for _, caption in texts])
    similarity = (text_embeds @ videos.embeds.t()).numpy()
    return {
        "task": "text-video retrieval",
        "scores": retrieval_scores(similarity, np.array([row for row, _ in texts])),
        "counts": {
            "videos_listed": len(items),
            "videos": len(videos.kept),
            "videos_unreadable": len(videos.failures),
            "videos_from_cache": videos.num_from_cache,
            "texts": len(texts),
            "texts_left_out": sum(len(item.captions) for item in items) - len(texts),
            "texts_cut": num_cut,
        },
        "failures": videos.failures,
        "annotations": {"file": str(settings.data), "sha256": sha256_of(settings.data)},
        "checkpoint": checkpoint,
        "config_sha256": checkpoint["sha256"]["config.json"],
        "embedding_key": key,
        "settings": {
            **{name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()},
            "num_frames": num_frames,
        },
        "processor": processor.video_processor.to_dict(),
        "versions": versions(),
        "seconds": round(time.time() - started, 3),
    }


def show(record: dict) -> None:
    counts, scores = record["counts"], record["scores"]
    print(f"| {counts['videos']} videos, {counts['texts']} texts | R@1 | R@5 | R@10 | median rank |")
    print("|---|---:|---:|---:|---:|")
    for name in ("text_to_video", "video_to_text"):
        shares = " | ".join(f"{100 * scores[f'{name}_r{places}']:.1f}" for places in (1, 5, 10))
        print(f"| {name.replace('_', ' ')} | {shares} | {scores[f'{name}_median_rank']:g} |")
    if counts["texts_cut"]:
        print(f"\n{counts['texts_cut']} texts were longer than the model reads and were cut.")
    if record["failures"]:
        print(f"\n{len(record['failures'])} of {counts['videos_listed']} videos could not be read and were left out:")
        for failure in record["failures"][:SHOWN_FAILURES]:
            print(f"  {failure['video']}: {failure['error']}")
        if len(record["failures"]) > SHOWN_FAILURES:
            print("  ... (all of them are in the record, see --out)")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="annotation file of the benchmark")
    parser.add_argument(
        "--videos", type=Path, required=True, help="folder of the videos, searched with its subfolders"
    )
    parser.add_argument("--layout", default="auto", choices=["auto", *TEXTS_OF_LAYOUT], help="of the annotations")
    parser.add_argument(
        "--texts",
        choices=TEXTS,
        help="what is compared: each caption, all of a video joined, or captions of stretches",
    )
    parser.add_argument("--subset", default="validation", help="of YouCook2's file")
    parser.add_argument("--model", default=str(CHECKPOINT), help="folder or Hub name of a TrajViT2Model")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-frames", type=int, help="frames per video (default: as the model was trained)")
    parser.add_argument("--cache", type=Path, default=Path("out/embeddings"), help="folder for embeddings of videos")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    settings = parser.parse_args(argv)
    try:
        record = evaluate(settings)
        if settings.out:
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    show(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
