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

from modeling_trajtok import TrajViT2Model, TrajViT2VideoOutput
from modeling_trajtok.grid_ops import resize_ids

from .embedding_cache import embed_captions
from .object_matching import FOUND_IOU, trajectories_of_objects, world_objects
from .retrieval_metrics import retrieval_scores

NUM_CANDIDATES = 24
NUM_MOTION_CANDIDATES = 4


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

    Raises:
        ValueError: if a clip is none of a world.
    """
    was_training = model.training
    model.eval()
    embeds, candidates, named = [], [], []
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
            objects = world_objects(record.metadata)
            if not objects:
                raise ValueError(f"Clip {record.name} tells of no objects, expected a clip of a moving-object world.")
            candidates.append(candidate_captions(np.random.default_rng([seed, first + row]), objects))
            named += _found_objects(model, videos, row, record, objects)
    embeds = torch.cat(embeds)

    texts = [text for group in candidates for text in group] + [text for text, *_ in named]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    text_embeds, _ = embed_captions(model, tokenizer, list(places))
    model.train(was_training)
    right, motion_right = [], []
    for group, embed in zip(candidates, embeds, strict=True):
        scores = text_embeds[[places[text] for text in group]] @ embed
        right.append(first_is_best(scores[:NUM_CANDIDATES]))
        motion_right.append(first_is_best(scores[NUM_CANDIDATES:]))
    similarity = text_embeds[[places[group[NUM_CANDIDATES]] for group in candidates]] @ embeds.t()
    hits = [float((features @ text_embeds[places[text]]).argmax() == best) for text, features, best in named]
    chances = [1 / len(features) for _, features, _ in named]
    return {
        "zero_shot_top1": float(np.mean(right)),
        "motion_top1": float(np.mean(motion_right)),
        **retrieval_scores(similarity.numpy(), np.arange(len(clips))),
        "trajectory_hit": float(np.mean(hits)) if hits else float("nan"),
        "trajectory_chance": float(np.mean(chances)) if chances else float("nan"),
        "clips": float(len(clips)),
    }


def first_is_best(scores: Tensor) -> bool:
    """Is the first of some scores (N,) greater than all others? A tie is no answer."""
    return bool(scores[0] > scores[1:].max())


def candidate_captions(rng: np.random.Generator, objects: Sequence[WorldObject]) -> list[str]:
    """The true summary and its rivals, `NUM_CANDIDATES` together, then the true caption of motions and its rivals."""
    summaries = [summary_caption(objects), *summary_distractors(rng, objects, NUM_CANDIDATES - 1)]
    return [*summaries, motions_caption(objects), *motion_distractors(rng, objects, NUM_MOTION_CANDIDATES - 1)]


def _found_objects(
    model: TrajViT2Model,
    videos: TrajViT2VideoOutput,
    row: int,
    record: ClipRecord,
    objects: Sequence[WorldObject],
) -> list[tuple[str, Tensor, int]]:
    """For each object that the segmenter found: its text, features of the clip's trajectories (P, E), which is its.

    Args:
        model: the model that made ``videos``.
        videos: its output for a batch.
        row: the clip's place in the batch.
        record: the clip.
        objects: of the clip.
    """
    num_trajectories = model.config.trajtok_config.num_trajectories
    ids = videos.trajectory_ids[row].cpu()
    chosen = np.linspace(0, len(record.frames_uint8) - 1, len(ids)).round().astype(int)
    truth = resize_ids(torch.from_numpy(record.trajectory_ids[chosen])[None], tuple(ids.shape[-2:]))
    masks = truth == torch.tensor([one.id for one in objects]).view(-1, 1, 1, 1)
    best, iou = trajectories_of_objects(ids.flatten().expand(len(objects), -1), masks.flatten(1), num_trajectories)
    present = ids[ids >= 0].unique()
    features = videos.trajectory_features[row].cpu()
    features = features[:: len(features) // num_trajectories][present]  # the first token of each trajectory
    places = torch.searchsorted(present, best).tolist()
    return [
        (object_caption(one), features, place)
        for one, place, found in zip(objects, places, (iou > FOUND_IOU).tolist(), strict=True)
        if found
    ]
