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
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evaluation.benchmark_files import TEXTS, TEXTS_OF_LAYOUT, VideoFolder, read_retrieval
from evaluation.benchmark_run import BenchmarkRun, add_arguments, run_benchmark
from evaluation.embedding_cache import VideoRequest, embed_captions
from evaluation.provenance import sha256_of
from evaluation.retrieval_metrics import retrieval_scores


def evaluate(settings: argparse.Namespace) -> dict:
    """Everything between the arguments and the record."""
    items = read_retrieval(settings.data, settings.layout, settings.texts, settings.subset)
    folder = VideoFolder(settings.videos)
    requests = [VideoRequest(item.video, folder.find(item.video), item.start_s, item.end_s) for item in items]
    run = BenchmarkRun(settings)
    videos = run.embed(requests)
    texts = [(row, caption) for row, index in enumerate(videos.kept) for caption in items[index].captions]
    text_embeds, num_cut = embed_captions(run.model, run.processor.tokenizer, [caption for _, caption in texts])
    similarity = (text_embeds @ videos.embeds.t()).numpy()
    return run.record(
        "text-video retrieval",
        retrieval_scores(similarity, np.array([row for row, _ in texts])),
        videos,
        counts={
            "texts": len(texts),
            "texts_left_out": sum(len(item.captions) for item in items) - len(texts),
            "texts_cut": num_cut,
        },
        annotations={"file": str(settings.data), "sha256": sha256_of(settings.data)},
    )


def show(record: dict) -> None:
    counts, scores = record["counts"], record["scores"]
    print(f"| {counts['videos']} videos, {counts['texts']} texts | R@1 | R@5 | R@10 | median rank |")
    print("|---|---:|---:|---:|---:|")
    for name in ("text_to_video", "video_to_text"):
        shares = " | ".join(f"{100 * scores[f'{name}_r{places}']:.1f}" for places in (1, 5, 10))
        print(f"| {name.replace('_', ' ')} | {shares} | {scores[f'{name}_median_rank']:g} |")
    if counts["texts_cut"]:
        print(f"\n{counts['texts_cut']} texts were longer than the model reads and were cut.")


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
    add_arguments(parser)
    settings = parser.parse_args(argv)
    return run_benchmark(settings, evaluate, show, settings.out)


if __name__ == "__main__":
    sys.exit(main())
