"""Conversations about cached clips, the same for the same number.

In:   ClipCache with metadata: messages, or of worlds captions and questions
Out:  batches for `AnswerTraining.forward`
To:   train_trajvlm.py
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from worlds import motions_caption, questions_of

from modeling_trajtok import TrajVLMProcessor

from .caption_views import world_objects
from .clip_cache import ClipCache
from .question_packing import IGNORED, Tokens, pack_conversations
from .recipe import TrajVLMRecipe

CAPTION_REQUESTS = ("Describe the video.", "What happens in the video?", "What is seen?")
LIST_REQUEST = "Name every object and what it does."


def choose_questions(questions: Sequence[dict], rng: np.random.Generator, count: int) -> list[dict]:
    """At most ``count`` questions, the types in turn, so that frequent types do not crowd out the others."""
    by_type = {}
    for place in rng.permutation(len(questions)):
        by_type.setdefault(questions[place]["type"], []).append(questions[place])
    rounds = [same[number] for number in range(len(questions)) for same in by_type.values() if number < len(same)]
    chosen = rounds[:count]
    return [chosen[place] for place in rng.permutation(len(chosen))]


def question_turns(questions: Sequence[dict]) -> list[dict[str, str]]:
    """Questions of a world as turns of a conversation."""
    turns = []
    for question in questions:
        turns.append({"role": "user", "content": question["question"]})
        turns.append({"role": "assistant", "content": question["answer"]})
    return turns


def turns_apart(turns: Sequence[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Each question with its answer on its own."""
    return [list(turns[first : first + 2]) for first in range(0, len(turns), 2)]


def with_video(turns: Sequence[dict[str, str]], video) -> list[dict]:
    """The turns as messages, the video in front of what the user says first."""
    messages, pending = [], True
    for turn in turns:
        content = [{"type": "text", "text": turn["content"]}]
        if turn["role"] == "user" and pending:
            content, pending = [{"type": "video", "video": video}, *content], False
        messages.append({"role": turn["role"], "content": content})
    return messages


class ChatViews(Dataset):
    """View j: a clip in an order shuffled anew each epoch, and a conversation about it.

    With ``length_groups`` a step's views are of similar length: the shuffled clips are taken so many batches at a
    time and sorted by the length of what is said.
    """

    def __init__(self, clips: ClipCache, recipe: TrajVLMRecipe):
        self.clips, self.recipe = clips, recipe
        self.order = lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return self.recipe.num_steps * self.recipe.batch_size

    def __getitem__(self, view: int) -> list[list[dict]]:
        """Conversations about one clip: one, or with ``questions_apart`` one for each question."""
        epoch, position = divmod(view, len(self.clips))
        clip = self.clips.position_of(self.order(epoch)[position])
        frames, _ = self.clips[clip]
        chosen = np.linspace(0, len(frames) - 1, self.recipe.num_frames).round().astype(int)
        rng = np.random.default_rng([self.recipe.seed, 1, view])
        metadata = self.clips.metadata(clip)
        turns = self._turns(metadata, rng)
        apart = self.recipe.questions_apart and "messages" not in metadata
        return [with_video(turn, frames[chosen]) for turn in (turns_apart(turns) if apart else [turns])]

    def _order(self, epoch: int) -> np.ndarray:
        """Which clip stands at each place of an epoch."""
        rng = np.random.default_rng([self.recipe.seed, 0, epoch])
        order = rng.permutation(len(self.clips))
        size, groups = self.recipe.batch_size, self.recipe.length_groups
        if groups < 2:
            return order
        batches = []
        for first in range(0, len(order), size * groups):
            group = order[first : first + size * groups]
            lengths = [sum(len(turn["content"]) for turn in self._told(self.clips.metadata(clip))) for clip in group]
            group = group[np.argsort(lengths, kind="stable")]
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        # A short last batch stays last, or it would shift the steps of all that follow.
        last = [batches.pop()] if len(batches[-1]) < size else []
        return np.concatenate([*(batches[place] for place in rng.permutation(len(batches))), *last])

    @staticmethod
    def _told(metadata: dict) -> list[dict[str, str]]:
        """All that a clip's conversation may say."""
        return metadata.get("messages") or question_turns(metadata.get("questions", []))

    def _turns(self, metadata: dict, rng: np.random.Generator) -> list[dict[str, str]]:
        if "messages" in metadata:
            return metadata["messages"]
        questions = questions_of(metadata, self.recipe.extra_types)
        if self.recipe.stage == "captions" or not questions:
            return self._description(metadata, rng)
        described = self._description(metadata, rng) if rng.random() < self.recipe.caption_share else []
        listed = self._list(metadata, rng) if rng.random() < self.recipe.list_share else []
        turns = [*described, *listed, *question_turns(self._chosen(questions, rng))]
        return turns or self._description(metadata, rng)

    def _chosen(self, questions: Sequence[dict], rng: np.random.Generator) -> list[dict]:
        asked = [question for question in questions if question["type"] not in self.recipe.left_out_types]
        return choose_questions(asked, rng, self.recipe.questions_per_clip)

    @staticmethod
    def _description(metadata: dict, rng: np.random.Generator) -> list[dict[str, str]]:
        captions = metadata["captions"]
        request = CAPTION_REQUESTS[rng.integers(len(CAPTION_REQUESTS))]
        return question_turns([{"question": request, "answer": captions[rng.integers(len(captions))]}])

    @staticmethod
    def _list(metadata: dict, rng: np.random.Generator) -> list[dict[str, str]]:
        """All objects of a world in an order of chance: what is said of one cannot be guessed from its place."""
        objects = world_objects(metadata)
        shuffled = [objects[place] for place in rng.permutation(len(objects))]
        return question_turns([{"question": LIST_REQUEST, "answer": motions_caption(shuffled)}] if shuffled else [])


def with_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with ``labels`` in place of ``assistant_masks``: the tokens that are learnt, -100 elsewhere."""
    inputs = dict(batch)
    learnt = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    return {**inputs, "labels": inputs["input_ids"].masked_fill(~learnt, IGNORED)}


def tokens_of(processor: TrajVLMProcessor, conversations: Sequence[list[dict]]) -> list[Tokens]:
    """Conversations as tokens, without their pictures and videos: each has one placeholder."""
    told = processor.tokenizer.apply_chat_template(
        list(conversations),
        chat_template=processor.chat_template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return [
        Tokens(ids, [token if learnt else IGNORED for token, learnt in zip(ids, mask, strict=True)])
        for ids, mask in zip(told["input_ids"], told["assistant_masks"], strict=True)
    ]


def pack_apart(
    batch: Mapping[str, Tensor], views: Sequence[Sequence[list[dict]]], processor: TrajVLMProcessor
) -> dict[str, Tensor]:
    """Add to the first conversation of each view, whose placeholders are expanded, the other ones.

    Args:
        batch: ``input_ids``, ``attention_mask`` and ``labels`` of the first ones.
        views: all conversations.
        processor: of the model.

    Returns:
        As `pack_conversations`.
    """
    known = batch["attention_mask"].bool()
    others = iter(tokens_of(processor, [one for view in views for one in view[1:]]))
    rows = [
        [Tokens(ids[kept].tolist(), labels[kept].tolist()), *(next(others) for _ in view[1:])]
        for ids, labels, kept, view in zip(batch["input_ids"], batch["labels"], known, views, strict=True)
    ]
    visual_ids = (processor.image_token_id, processor.video_token_id)
    return pack_conversations(rows, visual_ids, processor.tokenizer.pad_token_id)


class ChatCollator:
    """Turn views into tensors; only what the assistant says is learnt.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: TrajVLMProcessor):
        self.processor = processor

    def __call__(self, views: Sequence[list[list[dict]]]) -> dict[str, Tensor]:
        """Conversations about each clip to the model's inputs and ``labels``, -100 where nothing is learnt.

        Several conversations about a clip share a row, see `question_packing`; else rows are padded on the left.
        """
        batch = self.processor.apply_chat_template(
            [view[0] for view in views],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"do_sample_frames": False},
        )
        batch = with_labels(batch)
        if all(len(view) == 1 for view in views):
            return batch
        packed = pack_apart(batch, views, self.processor)
        return {name: value for name, value in batch.items() if name != "attention_mask"} | packed
