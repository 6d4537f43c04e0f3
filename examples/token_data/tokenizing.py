"""Clips to rows of trajectory tokens, by any model of this package.

In:   pixel_values_videos (B, T, 3, H_px, W_px), frame_valid (B, T), the clips that these are
Out:  a `TokenRow` for each clip
From: clip_reading     To: shards

Of TrajTok and TrajViT2 the tokens are what the tokenizer emits, of TrajAdapter what its head pools, of TrajVLM what
its language model reads. Trajectories are counted anew in each chunk of a TrajVLM: chunk * K + trajectory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMModel
from modeling_trajtok.processors.trajectory_maps import TrajectoryMap

from .clip_reading import Clip
from .token_makers import token_maker


@dataclass
class TokenRow:
    """Tokens of one clip; n tokens of width D, T frames.

    Attributes:
        name: of the video.
        window: how many windows of the video come before this one.
        tokens: (n, D).
        valid: (n,) False for tokens of trajectories without patches, which are kept only for models that read them.
        trajectories: (n,) which trajectory a token stands for.
        area_shares: (n,) share of the clip's patches that it owns.
        boxes_xyxy_px: (n, T, 4) in pixels of the source, to a patch; NaN where it is absent.
        time_spans_s: (n, 2) first and last time at which it is seen; NaN if it owns nothing.
        frame_times_s: (T,) seconds after the first frame of the video.
        size_hw: height and width of the source in pixels.
        masks: run-length codes (COCO) on the grid of patches, for each trajectory that is seen one per frame; or None.
        grid_hw: rows and columns of patches.
    """

    name: str
    window: int
    tokens: np.ndarray
    valid: np.ndarray
    trajectories: np.ndarray
    area_shares: np.ndarray
    boxes_xyxy_px: np.ndarray
    time_spans_s: np.ndarray
    frame_times_s: np.ndarray
    size_hw: tuple[int, int]
    masks: dict[int, list[str]] | None
    grid_hw: tuple[int, int]


@torch.no_grad()
def tokenize(
    model: PreTrainedModel,
    pixels: Tensor,
    frame_valid: Tensor,
    clips: Sequence[Clip],
    *,
    with_masks: bool = False,
) -> list[TokenRow]:
    """Tokens of a batch of clips.

    Args:
        model: TrajTok, TrajViT2, TrajAdapter or TrajVLM.
        pixels: (B, T, 3, H_px, W_px).
        frame_valid: (B, T).
        clips: B clips that these are: their names, windows and facts.
        with_masks: also keep the masks.

    Raises:
        ValueError: for another kind of model.
    """
    pixels, frame_valid = pixels.to(model.device, model.dtype), frame_valid.to(model.device)
    found = _tokens_of(model, pixels, frame_valid)
    return [_row(clip, tokens, ids.cpu(), with_masks) for clip, (tokens, ids) in zip(clips, found, strict=True)]


class ClipTokens(NamedTuple):
    """Tokens (n, D) of a clip, which of them are valid (n,), and the trajectories (n,) that they stand for."""

    tokens: Tensor
    valid: Tensor
    trajectories: Tensor


def _tokens_of(model: PreTrainedModel, pixels: Tensor, frame_valid: Tensor) -> list[tuple[ClipTokens, Tensor]]:
    """Of each clip its tokens and the ids (T, H, W) of its valid frames."""
    lengths = frame_valid.sum(dim=1).tolist()
    if isinstance(model, (TrajVLMModel, TrajVLMForConditionalGeneration)):
        return _chunked(model, pixels, frame_valid)
    maker = token_maker(model)
    if "backbone" in maker.modules:
        output = getattr(model, "adapter", model)(pixels, frame_valid, return_dict=True)
        embeds = output.last_hidden_state
    else:
        output = maker.modules["trajtok"](pixels, frame_valid)
        embeds = output.trajectory_embeds
    per_trajectory = embeds.shape[1] // _trajtok_config(model).num_trajectories
    numbers = torch.arange(embeds.shape[1], device=embeds.device) // per_trajectory
    clips = []
    for clip, valid, ids, length in zip(embeds, output.token_valid, output.trajectory_ids, lengths, strict=True):
        kept = torch.ones_like(valid) if maker.keeps_empty else valid
        clips.append((ClipTokens(clip[kept], valid[kept], numbers[kept]), ids[:length]))
    return clips


def _chunked(model: PreTrainedModel, pixels: Tensor, frame_valid: Tensor) -> list[tuple[ClipTokens, Tensor]]:
    """As `_tokens_of`, of a TrajVLM: all tokens that its language model reads."""
    features = model.get_video_features(pixels, frame_valid, return_dict=True)
    most = model.config.trajtok_config.num_trajectories
    per_chunk = min(model.config.frames_per_chunk or pixels.shape[1], pixels.shape[1])
    clips = []
    for place, tokens in enumerate(features.pooler_output):
        ids = features.trajectory_ids[place]
        chunks = torch.arange(len(ids), device=ids.device) // per_chunk
        ids = torch.where(ids >= 0, ids + most * chunks[:, None, None], ids)
        numbers = features.token_chunks[place] * most + features.token_trajectories[place]
        clips.append((ClipTokens(tokens, torch.ones_like(numbers, dtype=torch.bool), numbers), ids))
    return clips


def _trajtok_config(model: PreTrainedModel):
    return getattr(model.config, "trajtok_config", model.config)


def _row(clip: Clip, found: ClipTokens, ids: Tensor, with_masks: bool) -> TokenRow:
    tokens, valid, trajectories = (
        found.tokens.float().cpu().numpy(),
        found.valid.cpu().numpy(),
        found.trajectories.tolist(),
    )
    grid_hw, size_hw = tuple(ids.shape[1:]), (clip.facts["height"], clip.facts["width"])
    times_s = np.asarray(clip.facts["frame_times_s"], float)[: len(ids)]
    seen = TrajectoryMap(ids.numpy(), times_s, np.arange(len(ids)))
    scale = np.array([size_hw[1] / grid_hw[1], size_hw[0] / grid_hw[0]] * 2, np.float32)
    place = {number: position for position, number in enumerate(seen.ids.tolist())}
    area_shares = np.zeros(len(tokens), np.float32)
    boxes = np.full((len(tokens), len(ids), 4), np.nan, np.float32)
    spans_s = np.full((len(tokens), 2), np.nan)
    for token, trajectory in enumerate(trajectories):
        if trajectory in place:
            area_shares[token] = seen.areas_px[place[trajectory]].sum() / seen.labels.size
            boxes[token] = seen.boxes_xyxy_px[place[trajectory]] * scale
            spans_s[token] = seen.time_spans_s[place[trajectory]]
    masks = None
    if with_masks:
        codes = zip(seen.ids.tolist(), seen.to_coco_rle(), strict=True)
        masks = {number: [code["counts"] for code in frames] for number, frames in codes}
    return TokenRow(
        name=clip.name,
        window=clip.window,
        tokens=tokens,
        valid=valid,
        trajectories=np.array(trajectories, np.int32),
        area_shares=area_shares,
        boxes_xyxy_px=boxes,
        time_spans_s=spans_s,
        frame_times_s=times_s,
        size_hw=size_hw,
        masks=masks,
        grid_hw=grid_hw,
    )
