"""Judge a TrajViT2 model on worlds: does it tell captions apart, find clips, and point at the object it is told of?

In:   a model, its processor, clips of worlds (ClipRecord with their objects)
Out:  one dict of scores
To:   train_trajvit2.py, evaluate_worlds.py
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from trajectory_data import ClipRecord
from worlds import (
    WorldObject,
    motion_distractors,
    motions_caption,
    object_caption,
    summary_caption,
    summary_distractors,
)

from modeling_trajtok import TrajViT2Model

from .retrieval_metrics import retrieval_scores

NUM_CANDIDATES = 24
NUM_MOTION_CANDIDATES = 4


@torch.no_grad()
def embed_texts(model: TrajViT2Model, tokenizer, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Texts -> (N, E), of length 1."""
    parts = []
    for first in range(0, len(texts), batch_size):
        tokens = tokenizer(list(texts[first : first + batch_size]), padding=True, truncation=True, return_tensors="pt")
        parts.append(
            model.get_text_features(
                tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
            ).pooler_output.cpu()
        )
    return torch.cat(parts)


@torch.no_grad()
def evaluate_worlds(
    model: TrajViT2Model,
    video_processor,
    tokenizer,
    clips: Sequence[ClipRecord],
    *,
    num_frames: int,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """Scores on clips of worlds.

    Returns:
        zero_shot_top1: the summary caption among 24, the others wrong in one to four of count, colour, shape, motion.
        motion_top1: the caption of all motions among 4 of the same objects moving otherwise (chance 0.25).
        text_to_video_r1, ...: retrieval of clips by the caption of all motions, and back.
        trajectory_hit: the best trajectory for "a red star moves left" covers the object best, of the objects that the
            segmenter found; trajectory_chance: the same for a trajectory drawn at random.
    """
    was_training = model.training
    model.eval()
    embeds, hits, chances = [], [], []
    for first in tqdm(range(0, len(clips), batch_size), desc="held-out clips", leave=False):
        records = [clips[index] for index in range(first, min(first + batch_size, len(clips)))]
        inputs = video_processor(
            [record.frames_uint8 for record in records], num_frames=num_frames, return_tensors="pt"
        ).to(model.device)
        videos = model.get_video_features(
            inputs["pixel_values_videos"], inputs["frame_valid"], output_trajectory_features=True
        )
        embeds.append(videos.pooler_output.cpu())
        for row, record in enumerate(records):
            found, by_chance = _trajectory_hits(model, tokenizer, videos, row, record, num_frames)
            hits += found
            chances += by_chance
    embeds = torch.cat(embeds)

    right, motion_right, captions = [], [], []
    for index, record in enumerate(clips[position] for position in range(len(clips))):
        rng, objects = np.random.default_rng([seed, index]), objects_of(record)
        candidates = [summary_caption(objects), *summary_distractors(rng, objects, NUM_CANDIDATES - 1)]
        motions = [motions_caption(objects), *motion_distractors(rng, objects, NUM_MOTION_CANDIDATES - 1)]
        scores = embed_texts(model, tokenizer, candidates + motions) @ embeds[index]
        right.append(float(scores[:NUM_CANDIDATES].argmax() == 0))
        motion_right.append(float(scores[NUM_CANDIDATES:].argmax() == 0))
        captions.append(motions_caption(objects))
    similarity = embed_texts(model, tokenizer, captions) @ embeds.t()
    model.train(was_training)
    return {
        "zero_shot_top1": float(np.mean(right)),
        "motion_top1": float(np.mean(motion_right)),
        **retrieval_scores(similarity.numpy(), np.arange(len(clips))),
        "trajectory_hit": float(np.mean(hits)) if hits else float("nan"),
        "trajectory_chance": float(np.mean(chances)) if chances else float("nan"),
        "clips": float(len(clips)),
    }


def objects_of(record: ClipRecord) -> list[WorldObject]:
    """The objects of a world's clip.

    Raises:
        ValueError: if the clip is none of a world.
    """
    if not record.metadata.get("objects"):
        raise ValueError(f"Clip {record.name} tells of no objects, expected a clip of a moving-object world.")
    return [WorldObject(**one) for one in record.metadata["objects"]]


def _trajectory_hits(model, tokenizer, videos, row: int, record: ClipRecord, num_frames: int):
    """For each object that the segmenter found: was its trajectory picked, and how likely was that by chance?"""
    ids = videos.trajectory_ids[row].cpu().numpy()
    chosen = np.linspace(0, len(record.frames_uint8) - 1, len(ids)).round().astype(int)
    rows = (np.arange(ids.shape[1]) * 2 + 1) * record.trajectory_ids.shape[1] // (2 * ids.shape[1])
    columns = (np.arange(ids.shape[2]) * 2 + 1) * record.trajectory_ids.shape[2] // (2 * ids.shape[2])
    truth = record.trajectory_ids[chosen][:, rows][:, :, columns]
    present = np.unique(ids)
    num_trajectories = model.config.trajtok_config.num_trajectories
    features = videos.trajectory_features[row].cpu()
    features = features[:: len(features) // num_trajectories]
    hits, chances = [], []
    for one in objects_of(record):
        overlap = np.array([_iou(ids == k, truth == one.id) for k in present])
        if overlap.max() <= 0.3:
            continue
        text = embed_texts(model, tokenizer, [object_caption(one)])[0]
        picked = int((features[present] @ text).argmax())
        hits.append(float(picked == int(overlap.argmax())))
        chances.append(1 / len(present))
    return hits, chances


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))
