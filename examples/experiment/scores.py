"""What a trained system can do: captions told apart, clips found, attributes read by linear probes.

In:   a `TrajViT2Model` with any tower, clips of worlds
Out:  plain numbers by difficulty, number of objects and length of clip
To:   controlled_experiment.py
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from evaluation.caption_evaluation import NUM_CANDIDATES, candidate_captions, first_is_best
from evaluation.embedding_cache import embed_captions
from evaluation.object_matching import world_objects
from evaluation.retrieval_metrics import retrieval_scores
from rivals.given_trajectories import GivenTrajectoriesTower
from torch import Tensor
from tqdm import tqdm
from training.pixels import normalise, pixels_of
from trajectory_data import ClipRecord
from transformers import PreTrainedTokenizerBase
from worlds import WorldObject, altered_summaries
from worlds.distractors import ATTRIBUTES
from worlds.language import largest_object

from modeling_trajtok import TrajViT2Model

QUESTIONS = {
    "count": lambda record, objects: str(len(objects)),
    "colour": lambda record, objects: largest_object(objects).colour,
    "shape": lambda record, objects: largest_object(objects).shape,
    "motion": lambda record, objects: largest_object(objects).motion,
    "camera": lambda record, objects: record["camera"],
}
NUM_PAIRS = 6  # of each attribute and clip


@dataclass
class Seen:
    """What a system says of some clips.

    Attributes:
        embeds: (V, E) of length 1, in the space of texts.
        states: (V, D) pooled states of the video tower.
        num_tokens: tokens of each clip that carry something.
        records: what is known of each clip.
    """

    embeds: Tensor
    states: Tensor
    num_tokens: list[int]
    records: list[dict] = field(repr=False)

    @property
    def objects(self) -> list[list[WorldObject]]:
        """Of each clip."""
        return [world_objects(record) for record in self.records]


def video_inputs(model: TrajViT2Model, frames_uint8: np.ndarray, ids: np.ndarray) -> dict[str, Tensor]:
    """Frames (B, T, H, W, 3) and true ids (B, T, H, W) as the model's tower reads them."""
    inputs = {"pixel_values_videos": normalise(pixels_of(frames_uint8)).to(model.device)}
    if isinstance(model.video_model, GivenTrajectoriesTower):
        inputs["trajectory_ids"] = torch.from_numpy(ids.astype(np.int64)).to(model.device)
    return inputs


@torch.no_grad()
def see(model: TrajViT2Model, clips: Sequence[ClipRecord], batch_size: int = 16) -> Seen:
    """Embed clips of one length and size."""
    was_training = model.training
    model.eval()
    embeds, states, counts, records = [], [], [], []
    for first in tqdm(range(0, len(clips), batch_size), desc="clips", leave=False):
        batch = [clips[index] for index in range(first, min(first + batch_size, len(clips)))]
        frames, ids = np.stack([one.frames_uint8 for one in batch]), np.stack([one.trajectory_ids for one in batch])
        output = model.get_video_features(**video_inputs(model, frames, ids))
        embeds.append(output.pooler_output.float().cpu())
        states.append(output.last_hidden_state[:, 0].float().cpu())
        counts += output.token_valid.sum(dim=1).tolist()
        records += [one.metadata for one in batch]
    model.train(was_training)
    return Seen(torch.cat(embeds), torch.cat(states), counts, records)


def caption_scores(model: TrajViT2Model, tokenizer: PreTrainedTokenizerBase, seen: Seen) -> dict[str, object]:
    """Zero-shot (the summary among `NUM_CANDIDATES`), motions (among 4), pairs, retrieval.

    A pair is a summary and a false version of it in which one attribute is wrong. The captions of a clip depend on its
    place among the clips alone. By number of objects it is told how many clips are found, and of how many.
    """
    told = [candidate_captions(np.random.default_rng([0, place]), one) for place, one in enumerate(seen.objects)]
    altered = [false_summaries(np.random.default_rng([1, place]), one) for place, one in enumerate(seen.objects)]
    groups = [*told, *(texts for own in altered for texts in own.values())]
    places = {text: place for place, text in enumerate(dict.fromkeys(text for group in groups for text in group))}
    was_training = model.training
    model.eval()
    texts, _ = embed_captions(model, tokenizer, list(places))
    model.train(was_training)
    hits, motion_hits, told_apart = [], [], {name: [] for name in ATTRIBUTES}
    for group, false, embed in zip(told, altered, seen.embeds, strict=True):
        similarity = texts[[places[text] for text in group]] @ embed
        hits.append(int(first_is_best(similarity[:NUM_CANDIDATES])))
        motion_hits.append(int(first_is_best(similarity[NUM_CANDIDATES:])))
        for name, rivals in false.items():
            told_apart[name] += (similarity[0] > texts[[places[text] for text in rivals]] @ embed).tolist()
    captions = texts[[places[group[NUM_CANDIDATES]] for group in told]]
    similarity = captions @ seen.embeds.t()
    retrieval = retrieval_scores(similarity.numpy(), np.arange(len(told)))
    by_count = {}
    for place, (objects, row) in enumerate(zip(seen.objects, similarity, strict=True)):
        found, asked = by_count.get(len(objects), (0, 0))
        hit = first_is_best(row.roll(-place))
        by_count[len(objects)] = (found + int(hit), asked + 1)
    return {
        "zero_shot": float(np.mean(hits)),
        "motion": float(np.mean(motion_hits)),
        "pairs": _with_mean({name: float(np.mean(right)) for name, right in told_apart.items()}),
        "r1": (retrieval["text_to_video_r1"] + retrieval["video_to_text_r1"]) / 2,
        "tokens": float(np.mean(seen.num_tokens)),
        "by_objects": {str(number): by_count[number] for number in sorted(by_count)},
    }


def false_summaries(rng: np.random.Generator, objects: Sequence[WorldObject]) -> dict[str, list[str]]:
    """`NUM_PAIRS` false versions of the summary for each attribute that is wrong in them."""
    return {name: altered_summaries(rng, objects, NUM_PAIRS, (name,)) for name in ATTRIBUTES}


def probe_scores(training: Seen, held_out: Seen) -> dict[str, float]:
    """Share of right answers of a linear probe on the pooled states, for each of `QUESTIONS`, and their mean.

    A probe is a ridge regression onto the answers that occur in training, with the states scaled to mean 0 and
    deviation 1; an answer that does not occur there counts as wrong.
    """
    mean, deviation = training.states.mean(dim=0), training.states.std(dim=0) + 1e-6
    inputs = [
        torch.nn.functional.pad((seen.states - mean) / deviation, (0, 1), value=1.0) for seen in (training, held_out)
    ]
    gram = inputs[0].t() @ inputs[0] + 0.1 * len(inputs[0]) * torch.eye(inputs[0].shape[1])
    scores = {}
    for name, answer in QUESTIONS.items():
        known, asked = (
            [answer(record, objects) for record, objects in zip(seen.records, seen.objects, strict=True)]
            for seen in (training, held_out)
        )
        answers = sorted(set(known))
        targets = torch.tensor([[float(one == other) for other in answers] for one in known])
        weights = torch.linalg.solve(gram, inputs[0].t() @ targets)
        found = (inputs[1] @ weights).argmax(dim=1).tolist()
        scores[name] = float(np.mean([answers[place] == true for place, true in zip(found, asked, strict=True)]))
    return _with_mean(scores)


def majority_scores(training: Sequence[dict], held_out: Sequence[dict]) -> dict[str, float]:
    """What always giving the most frequent answer of the training clips would score."""
    scores = {}
    for name, answer in QUESTIONS.items():
        known, asked = ([answer(one, world_objects(one)) for one in records] for records in (training, held_out))
        scores[name] = float(np.mean([one == max(sorted(set(known)), key=known.count) for one in asked]))
    return _with_mean(scores)


def _with_mean(scores: dict[str, float]) -> dict[str, float]:
    return scores | {"mean": float(np.mean(list(scores.values())))}
