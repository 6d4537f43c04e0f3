"""Judge a TrajViT2 or TrajVLM checkpoint on held-out moving-object worlds.

What you will see: of a TrajViT2 a table of
    zero-shot top-1     the true summary ("Three objects: the largest, a red star, grows.") among 24 captions, the
                        others wrong in one to four of count, colour, shape and motion
    motion top-1        the caption of all motions among 4, the others telling of the same objects moving otherwise
    retrieval           text to video and back by the caption of all motions, among all clips
    trajectory hit      is the trajectory that fits "a red star moves left" best the one that covers the star?
Of a TrajVLM exact match of its answers, the mean over types of questions and each of them, with the share of the most
frequent answer. With ``--out`` also a JSON record.

    python examples/evaluate_worlds.py                          # 256 easy worlds, as in the README
    python examples/evaluate_worlds.py --difficulty default     # moving cameras, clutter, occlusion: not trained for
    python examples/evaluate_worlds.py --model checkpoints/trajvlm-tiny     # 256 eventful worlds

Needs: ``pip install -e ".[train]"``. A few minutes on two CPU cores.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluation.caption_evaluation import evaluate_worlds
from evaluation.provenance import checkpoint_record, versions
from evaluation.question_evaluation import evaluate_questions
from storage import write_text
from training.clip_cache import WorldClips
from transformers import AutoConfig
from worlds import DIFFICULTIES, WorldConfig

from modeling_trajtok import (
    TrajViT2Model,
    TrajViT2Processor,
    TrajVLMConfig,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "trajvit2-tiny"
HELD_OUT_SEED = 1000003  # neither trained on nor looked at while training


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(CHECKPOINT), help="folder or Hub name of a TrajViT2 or TrajVLM")
    parser.add_argument("--worlds", type=int, default=256, help="how many held-out worlds")
    parser.add_argument(
        "--difficulty", choices=list(DIFFICULTIES), help="default: what the shipped checkpoint was trained for"
    )
    parser.add_argument(
        "--world-frames", type=int, default=0, help="frames of each world (default: what the model reads)"
    )
    parser.add_argument("--num-frames", type=int, default=0, help="frames that the model reads (default: its own)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    settings = parser.parse_args(argv)
    try:
        asks = AutoConfig.from_pretrained(settings.model).model_type == TrajVLMConfig.model_type
        difficulty = settings.difficulty or ("eventful" if asks else "easy")
        kind, processors = (
            (TrajVLMForConditionalGeneration, TrajVLMProcessor) if asks else (TrajViT2Model, TrajViT2Processor)
        )
        model = kind.from_pretrained(settings.model, dtype=torch.float32).eval()
        processor = processors.from_pretrained(settings.model)
        own_frames = processor.video_processor.num_frames if asks else model.config.num_frames
        num_frames = settings.num_frames or own_frames
        world_frames = settings.world_frames or num_frames
        size = processor.video_processor.size
        config = WorldConfig.named(difficulty, num_frames=world_frames, height=size["height"], width=size["width"])
        clips = WorldClips(HELD_OUT_SEED, settings.worlds, config)
        if asks:
            scores = evaluate_questions(model, processor, clips, num_frames=num_frames)
        else:
            scores = evaluate_worlds(
                model, processor.video_processor, processor.tokenizer, clips, num_frames=num_frames
            )
        record = {
            "scores": scores,
            "settings": {
                **vars(settings),
                "out": None,
                "difficulty": difficulty,
                "num_frames": num_frames,
                "seed": HELD_OUT_SEED,
            },
            "checkpoint": checkpoint_record(settings.model),
            "versions": versions(),
        }
        if settings.out:
            write_text(settings.out, json.dumps(record, indent=2))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(f"{settings.worlds} {difficulty} worlds, {num_frames} of {world_frames} frames")
    for name, value in scores.items():
        print(f"  {name:<26}{value:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
