"""Conversations about one video side by side in one row: each sees the video, none sees another.

In:   tokens of conversations that begin with the same video
Out:  tokens, labels, positions and for each token the number of its conversation
From: chat_views     To: chat_training
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
# Numbers of conversations start at 1.
PADDING, SHARED = -1, 0


class Tokens(NamedTuple):
    """A conversation: its tokens, and the label of each."""

    input_ids: list[int]
    labels: list[int]


def pack_conversations(rows: Sequence[Sequence[Tokens]], visual_ids: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """Put the conversations of each row behind what they share: all up to their last visual token.

    What is shared is taken from a row's first conversation; the others may have fewer visual tokens.

    Args:
        rows: conversations about the same video.
        visual_ids: tokens that stand for pictures and videos.
        pad_id: token that fills rows on the right.

    Returns:
        ``input_ids``, ``labels``, ``position_ids`` and ``conversations`` (see `conversation_mask`), each (B, S).
    """
    packed = [_pack(row, visual_ids) for row in rows]
    fillings = {"input_ids": pad_id, "labels": IGNORED, "position_ids": 0, "conversations": PADDING}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[name]) for row in packed], batch_first=True, padding_value=filling
        )
        for name, filling in fillings.items()
    }


def _pack(conversations: Sequence[Tokens], visual_ids: Sequence[int]) -> dict[str, list[int]]:
    first = conversations[0]
    shared = _end_of_visual_tokens(first.input_ids, visual_ids)
    row = {
        "input_ids": first.input_ids[:shared],
        "labels": first.labels[:shared],
        "position_ids": list(range(shared)),
        "conversations": [SHARED] * shared,
    }
    for number, one in enumerate(conversations, start=1):
        own = slice(_end_of_visual_tokens(one.input_ids, visual_ids), None)
        length = len(one.input_ids[own])
        row["input_ids"] += one.input_ids[own]
        row["labels"] += one.labels[own]
        row["position_ids"] += range(shared, shared + length)
        row["conversations"] += [number] * length
    return row


def _end_of_visual_tokens(input_ids: Sequence[int], visual_ids: Sequence[int]) -> int:
    return max((place + 1 for place, token in enumerate(input_ids) if token in visual_ids), default=0)


def conversation_mask(conversations: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention mask (B, 1, S, S), 0 where a token sees another, that of no effect elsewhere.

    A token sees what is shared and its own conversation, up to itself; padding sees itself only.
    """
    seen_by, seen = conversations.unsqueeze(2), conversations.unsqueeze(1)
    allowed = ((seen == seen_by) & (seen != PADDING)) | ((seen == SHARED) & (seen_by != PADDING))
    length = conversations.shape[1]
    places = torch.arange(length, device=conversations.device)
    allowed = (allowed & (places <= places.unsqueeze(1))) | (places == places.unsqueeze(1))
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)
