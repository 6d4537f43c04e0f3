"""Judge a checkpoint's trajectories on clips with ground truth, next to SLIC supervoxels and uniform cells.

What you will see: a table of FG-ARI, ARI, mean best IoU, VEQ, STQ-EN and J&F of the best trajectory of each object,
for the model and for both baselines with as many segments as the model used on that clip, all at the size of the
source. With ``--out`` also the scores of every clip as JSON.

    python examples/evaluate_trajectories.py --worlds 64                      # held-out moving-object worlds
    python examples/evaluate_trajectories.py path/to/davis --max-frames 24    # DAVIS, MOSE, YouTube-VIS, SA-V, ...

Needs: ``pip install -e ".[eval]"``. A minute for 64 worlds on two CPU cores.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from evaluation import evaluate_clip, summarise
from evaluation.segmenter_evaluation import predict_ids
from evaluation.trajectory_metrics import region_and_boundary
from skimage.segmentation import slic
from storage import write_text
from tqdm import tqdm
from training.clip_cache import WorldClips
from trajectory_data import ClipRecord, open_dataset
from worlds import DIFFICULTIES, WorldConfig

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "trajtok-tiny"
SHOWN = ("fg_ari", "ari", "mean_best_iou", "veq", "stq_en", "j_and_f")
HELD_OUT_SEED = 1000001


def slic_supervoxels(frames_uint8: np.ndarray, num_segments: int) -> np.ndarray:
    """Frames (T, H_px, W_px, 3) -> supervoxels (T, H_px, W_px), from 1 (scikit-image, compactness 10)."""
    return slic(frames_uint8, n_segments=num_segments, compactness=10, channel_axis=-1, start_label=1)


def uniform_cells(frames_uint8: np.ndarray, num_segments: int) -> np.ndarray:
    """Frames (T, H_px, W_px, 3) -> a grid of equal tubes through all frames (T, H_px, W_px), from 1."""
    frames, height, width, _ = frames_uint8.shape
    rows = max(1, round((num_segments * height / width) ** 0.5))
    columns = max(1, round(num_segments / rows))
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.broadcast_to(row[:, None] * columns + column + 1, (frames, height, width))


def judge(clips: Sequence[ClipRecord], model: TrajTokModel, processor: TrajTokVideoProcessor) -> Iterator[dict]:
    """Scores of the model and of the baselines, clip by clip."""
    for clip in tqdm(clips, desc="clips", total=len(clips)):
        prediction = predict_ids(model, processor, clip.frames_uint8) + 1
        segments = len(np.unique(prediction))
        rivals = {
            "TrajTok": prediction,
            "SLIC supervoxels": slic_supervoxels(clip.frames_uint8, segments),
            "uniform cells": uniform_cells(clip.frames_uint8, segments),
        }
        truth = clip.trajectory_ids
        scores = {
            name: {**evaluate_clip(ids, truth), **region_and_boundary(ids, truth)} for name, ids in rivals.items()
        }
        yield {"clip": clip.name, "frames": len(clip.frames_uint8), "segments": segments, "scores": scores}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder of clips with masks; without it, worlds")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--max-frames", type=int, default=24, help="frames per clip, evenly spaced")
    parser.add_argument("--worlds", type=int, default=64, help="how many held-out worlds, when no folder is given")
    parser.add_argument("--difficulty", default="default", choices=list(DIFFICULTIES))
    parser.add_argument("--model", default=str(CHECKPOINT), help="folder or Hub name of a TrajTokModel")
    parser.add_argument("--size", type=int, help="height and width in pixels that the model sees")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    settings = parser.parse_args(argv)
    try:
        model = TrajTokModel.from_pretrained(settings.model).eval()
        changes = {"size": {"height": settings.size, "width": settings.size}} if settings.size else {}
        processor = TrajTokVideoProcessor.from_pretrained(settings.model, **changes)
        if settings.data:
            clips = open_dataset(settings.data, settings.layout, num_frames=settings.max_frames)
        else:
            clips = WorldClips(HELD_OUT_SEED, settings.worlds, WorldConfig.named(settings.difficulty))
        records = list(judge(clips, model, processor))
        if settings.out:
            write_text(settings.out, json.dumps({"model": settings.model, "clips": records}, indent=1))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(f"| {len(records)} clips | " + " | ".join(SHOWN) + " |\n|---|" + "---:|" * len(SHOWN))
    for rival in records[0]["scores"]:
        means = summarise([record["scores"][rival] for record in records])
        print(f"| {rival} | " + " | ".join(f"{means[name]['mean']:.3f}" for name in SHOWN) + " |")
    print(f"\nSegments per clip: {np.mean([record['segments'] for record in records]):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
