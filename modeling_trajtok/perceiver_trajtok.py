"""Perceiver: a set of latents reads the patches of a clip.

In:   latents (B, K*L, D), patches (B, N, D) in blocks of frames, optionally which trajectory owns each patch
Out:  latents (B, K*L, D)
From: segmenter_trajtok, encoder_trajtok (both perceivers have this shape)
Official: traj_perceiver.py (``TrajPerceiver``: "grid" positions), perceiver_resampler.py ("sequence" positions)

Attention is computed in one of three ways, with the same result:
* all patches visible to all latents, in one block: Transformers' attention interface (sdpa, flash, flex, eager);
* all visible, several blocks: one softmax per block, merged by their log-sum-exps, so memory is that of one block;
* patches visible to their own trajectory only: a softmax per trajectory over gathered queries, which costs N * D
  operations and no (K*L, N) mask. "eager" builds the mask instead and serves as the reference.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .grid_ops import GridSize
from .rotary_trajtok import RotaryPositions, Rotation

# Stands in for "no key seen yet" in running maxima: finite, so that differences of two of them stay defined.
NO_SCORE = -1e30


class PatchBlock(NamedTuple):
    """Consecutive frames of the clips: first frame, features (B, n, D), and which patches are real (B, n) or None."""

    first_frame: int
    features: Tensor
    valid: Tensor | None


class PatchBlocks:
    """Patch features of a batch of clips, served in blocks of frames, as often as they are asked for.

    Args:
        read: ``read(first_frame, last_frame)`` -> features (B, n, D) of these frames (last one excluded).
        batch_size: B.
        grid: size of the whole clip.
        frames_per_block: frames that are served at a time.
        valid: (B, N), False for patches of padded frames; None if all are real.
    """

    def __init__(
        self,
        read: Callable[[int, int], Tensor],
        batch_size: int,
        grid: GridSize,
        frames_per_block: int,
        valid: Tensor | None = None,
    ):
        self.read = read
        self.batch_size = batch_size
        self.grid = grid
        self.frames_per_block = min(frames_per_block, grid.t)
        self.valid = valid

    @classmethod
    def from_features(
        cls, features: Tensor, grid: GridSize, frames_per_block: int, valid: Tensor | None = None
    ) -> "PatchBlocks":
        """Serve features (B, N, D) that are in memory."""
        per_frame = grid.patches_per_frame

        def read(first: int, last: int) -> Tensor:
            return features[:, first * per_frame : last * per_frame]

        return cls(read, features.shape[0], grid, frames_per_block, valid)

    @property
    def is_whole(self) -> bool:
        """Whether one block holds the clip."""
        return self.frames_per_block >= self.grid.t

    @property
    def block_grid(self) -> GridSize:
        """Size of a full block."""
        return self.grid._replace(t=self.frames_per_block)

    def __iter__(self) -> Iterator[PatchBlock]:
        per_frame = self.grid.patches_per_frame
        for first in range(0, self.grid.t, self.frames_per_block):
            last = min(first + self.frames_per_block, self.grid.t)
            valid = None if self.valid is None else self.valid[:, first * per_frame : last * per_frame]
            yield PatchBlock(first, self.read(first, last), valid)

    def whole(self) -> Tensor:
        """All features (B, N, D)."""
        return self.read(0, self.grid.t)

    def map(self, function: Callable[[Tensor], Tensor]) -> "PatchBlocks":
        """Blocks of ``function(features)``; applied once if the clip is one block, else whenever a block is read."""
        if self.is_whole:
            return PatchBlocks.from_features(function(self.whole()), self.grid, self.frames_per_block, self.valid)

        def read(first: int, last: int) -> Tensor:
            return function(self.read(first, last))

        return PatchBlocks(read, self.batch_size, self.grid, self.frames_per_block, self.valid)


class Membership(NamedTuple):
    """Which trajectory may read which patch.

    Attributes:
        patch_trajectory: (B, N) trajectory of each patch; -1: read by none (padding, and the anchors below).
        anchor_index: (B, A) patches that every trajectory reads.
        anchor_features: (B, A, D) their features.
        num_trajectories: K.
    """

    patch_trajectory: Tensor
    anchor_index: Tensor
    anchor_features: Tensor
    num_trajectories: int


class PartialAttention(NamedTuple):
    """Attention over some of the keys: output (B, M, heads, head_dim) and log-sum-exp (B, M, heads), both fp32."""

    output: Tensor
    logsumexp: Tensor

    def merge(self, other: "PartialAttention") -> "PartialAttention":
        """Attention over the keys of both."""
        logsumexp = torch.logaddexp(self.logsumexp, other.logsumexp)
        output = self.output * (self.logsumexp - logsumexp).exp().unsqueeze(-1)
        output = output + other.output * (other.logsumexp - logsumexp).exp().unsqueeze(-1)
        return PartialAttention(output, logsumexp)


def attend_all(
    queries: Tensor, keys: Tensor, values: Tensor, key_valid: Tensor | None, scaling: float
) -> PartialAttention:
    """Every query reads every key. Queries (B, M, heads, d), keys and values (B, n, heads, d), key_valid (B, n)."""
    scores = (queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1)).float() * scaling  # (B, heads, M, n)
    if key_valid is not None:
        scores = scores.masked_fill(~key_valid[:, None, None], NO_SCORE)
    maximum = scores.amax(dim=-1, keepdim=True)
    weights = (scores - maximum).exp_()
    if key_valid is not None:
        weights = weights * key_valid[:, None, None]
    total = weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    output = (weights.to(values.dtype) @ values.transpose(1, 2)).float() / total
    return PartialAttention(output.transpose(1, 2), (maximum + total.log()).squeeze(-1).transpose(1, 2))


def attend_own(
    queries: Tensor, keys: Tensor, values: Tensor, patch_trajectory: Tensor, num_trajectories: int, scaling: float
) -> PartialAttention:
    """Every patch is read by the latents of its own trajectory, and only by them.

    Args:
        queries: (B, K*L, heads, d).
        keys: (B, n, heads, d); values likewise.
        values: see keys.
        patch_trajectory: (B, n) in -1 ... K-1; -1 is read by none.
        num_trajectories: K.
        scaling: factor on the scores.
    """
    batch, num_patches, heads, head_dim = keys.shape
    tokens = queries.shape[1] // num_trajectories
    num_groups = batch * num_trajectories
    first_group = torch.arange(0, num_groups, num_trajectories, device=keys.device).unsqueeze(1)
    # Group number of each patch; the last group collects the patches that nobody reads.
    group = torch.where(patch_trajectory >= 0, patch_trajectory + first_group, num_groups).flatten()

    group_queries = F.pad(queries.reshape(num_groups, -1), (0, 0, 0, 1))
    own_queries = F.embedding(group, group_queries).view(-1, tokens, heads, head_dim)
    keys, values = keys.reshape(-1, 1, heads, head_dim), values.reshape(-1, 1, heads, head_dim)
    scores = (own_queries * keys).sum(dim=-1).float() * scaling  # (B*n, L, heads)
    with torch.no_grad():
        index = group.view(-1, 1, 1).expand_as(scores)
        maximum = scores.new_full((num_groups + 1, tokens, heads), NO_SCORE)
        maximum = maximum.scatter_reduce(0, index, scores, reduce="amax")
    weights = (scores - maximum[group]).exp()
    total = torch.zeros_like(maximum).index_add(0, group, weights)
    summed = scores.new_zeros(num_groups + 1, tokens, heads, head_dim)
    summed = summed.index_add(0, group, weights.unsqueeze(-1) * values)

    total = total[:-1].clamp_min(torch.finfo(torch.float32).tiny)
    shape = (batch, num_trajectories * tokens, heads)
    output = (summed[:-1] / total.unsqueeze(-1)).view(*shape, head_dim)
    return PartialAttention(output, (maximum[:-1] + total.log()).view(shape))


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Reference attention: (B, heads, M, d) queries, mask boolean (True = may read) or additive."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class TrajTokAttention(nn.Module):
    """Latents read patches; with "sequence" positions they also read the latents (of their own trajectory).

    ``config`` is read for the attention implementation only, which Transformers may change at run time.
    """

    def __init__(self, config, *, width: int, num_heads: int, positions: Literal["sequence", "grid"], theta: float):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (width // num_heads) ** -0.5
        self.rotary = RotaryPositions(positions=positions, head_dim=width // num_heads, theta=theta)
        self.reads_latents = positions == "sequence"
        if self.reads_latents:
            self.context_norm = nn.LayerNorm(width)
            self.latent_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], self.num_heads, -1)

    def _project_context(self, features: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Features (B, n, D) -> keys and values (B, n, heads, d)."""
        if self.reads_latents:
            features = self.context_norm(features)
        return rotation(self._heads(self.k_proj(features))), self._heads(self.v_proj(features))

    def forward(self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None = None) -> Tensor:
        """Latents (B, K*L, D) -> what they read, (B, K*L, D)."""
        if self.reads_latents:
            latents = self.latent_norm(latents)
        grouped = membership is not None and self.config._attn_implementation != "eager"
        attend = self._attend_in_blocks if grouped or not blocks.is_whole else self._attend_at_once
        return self.out_proj(attend(latents, blocks, membership))

    def _attend_at_once(self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None) -> Tensor:
        num_latents, device, dtype = latents.shape[1], latents.device, latents.dtype
        latent_rotation = Rotation.from_angles(self.rotary.latent_angles(num_latents, device), dtype)
        patch_index = torch.arange(blocks.grid.num_patches, device=device)
        patch_rotation = Rotation.from_angles(self.rotary.patch_angles(patch_index, blocks.grid, num_latents), dtype)

        queries = latent_rotation(self._heads(self.q_proj(latents)))
        keys, values = self._project_context(blocks.whole(), patch_rotation)
        if self.reads_latents:
            latent_keys = latent_rotation(self._heads(self.k_proj(latents)))
            keys = torch.cat((latent_keys, keys), dim=1)
            values = torch.cat((self._heads(self.v_proj(latents)), values), dim=1)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, _ = attention(
            self,
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attention_mask=self._key_mask(latents, keys, blocks, membership),
            scaling=self.scaling,
            is_causal=False,
        )
        return output.flatten(2)

    def _key_mask(self, latents: Tensor, keys: Tensor, blocks: PatchBlocks, membership: Membership | None):
        """The mask over ``[latents ; patches]`` in the form that the attention implementation wants, or None."""
        batch, num_latents = latents.shape[:2]
        if membership is not None:
            trajectory = torch.arange(membership.num_trajectories, device=latents.device)
            trajectory = trajectory.repeat_interleave(num_latents // membership.num_trajectories)
            may_read = membership.patch_trajectory.unsqueeze(1) == trajectory.view(1, -1, 1)  # (B, K*L, N)
            may_read = may_read.scatter(2, membership.anchor_index.unsqueeze(1).expand(-1, num_latents, -1), True)
            if self.reads_latents:
                own = (trajectory.unsqueeze(1) == trajectory).expand(batch, -1, -1)
                may_read = torch.cat((own, may_read), dim=2)
            return may_read.unsqueeze(1)
        if blocks.valid is None:
            return None
        key_valid = F.pad(blocks.valid, (keys.shape[1] - blocks.valid.shape[1], 0), value=True)
        return create_bidirectional_mask(
            config=self.config, inputs_embeds=latents, attention_mask=key_valid, encoder_hidden_states=keys.flatten(2)
        )

    def _attend_in_blocks(self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None) -> Tensor:
        num_latents, device, dtype = latents.shape[1], latents.device, latents.dtype
        latent_angles = self.rotary.latent_angles(num_latents, device)
        block_index = torch.arange(blocks.block_grid.num_patches, device=device)
        block_rotation = Rotation.from_angles(
            self.rotary.patch_angles(block_index, blocks.block_grid, num_latents), dtype
        )
        queries = self._heads(self.q_proj(latents))

        result = self._attend_to_shared(queries, latents, latent_angles, blocks.grid, membership)
        first_patch = 0
        for first_frame, features, valid in blocks:
            num_patches = features.shape[1]
            keys, values = self._project_context(features, block_rotation.first(num_patches))
            offset = self.rotary.frame_offset(first_frame, blocks.grid, device)
            block_queries = Rotation.from_angles(latent_angles - offset, dtype)(queries)
            if membership is None:
                part = attend_all(block_queries, keys, values, valid, self.scaling)
            else:
                owner = membership.patch_trajectory[:, first_patch : first_patch + num_patches]
                part = attend_own(block_queries, keys, values, owner, membership.num_trajectories, self.scaling)
            result = part if result is None else result.merge(part)
            first_patch += num_patches
        return result.output.flatten(2).to(dtype)

    def _attend_to_shared(
        self, queries: Tensor, latents: Tensor, latent_angles: Tensor, grid: GridSize, membership: Membership | None
    ) -> PartialAttention | None:
        """Attention to the keys outside the blocks: latents, and the anchor patches of a membership."""
        batch, num_latents, dtype = *latents.shape[:2], latents.dtype
        num_sets = 1 if membership is None else membership.num_trajectories
        keys, values = [], []
        latent_rotation = Rotation.from_angles(latent_angles, dtype)
        if self.reads_latents:
            # One set of keys per trajectory, or a single set that all latents read.
            split = (batch * num_sets, num_latents // num_sets, self.num_heads, -1)
            keys.append(latent_rotation(self._heads(self.k_proj(latents))).reshape(split))
            values.append(self._heads(self.v_proj(latents)).reshape(split))
        if membership is not None:
            angles = self.rotary.patch_angles(membership.anchor_index, grid, num_latents)
            anchors = self._project_context(membership.anchor_features, Rotation.from_angles(angles, dtype))
            for states, anchor_states in zip((keys, values), anchors, strict=True):
                states.append(anchor_states.repeat_interleave(num_sets, dim=0))
        if not keys:
            return None
        set_queries = latent_rotation(queries).reshape(batch * num_sets, num_latents // num_sets, self.num_heads, -1)
        part = attend_all(set_queries, torch.cat(keys, dim=1), torch.cat(values, dim=1), None, self.scaling)
        shape = (batch, num_latents, self.num_heads)
        return PartialAttention(part.output.reshape(*shape, -1), part.logsumexp.reshape(shape))


class TrajTokMLP(nn.Module):
    """Gated MLP with its own norm: ``down(silu(gate(x)) * up(x))``, (B, M, D) -> (B, M, D)."""

    def __init__(self, *, width: int, ratio: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.gate_proj = nn.Linear(width, ratio * width)
        self.up_proj = nn.Linear(width, ratio * width)
        self.down_proj = nn.Linear(ratio * width, width)

    def forward(self, states: Tensor) -> Tensor:
        states = self.norm(states)
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


class TrajTokPerceiverLayer(GradientCheckpointingLayer):
    """Attention to the patches, then the MLP, each with a residual connection."""

    def __init__(self, attention: TrajTokAttention, mlp: TrajTokMLP):
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def forward(self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None = None) -> Tensor:
        latents = latents + self.attention(latents, blocks, membership)
        return latents + self.mlp(latents)


class TrajTokPerceiver(nn.Module):
    """A stack of perceiver layers.

    One norm is shared by all layers and sits on the residual stream itself, as in the original: the stream is
    renormalised before each layer.
    """

    def __init__(
        self,
        config,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: int,
        positions: Literal["sequence", "grid"],
        theta: float,
        eps: float,
    ):
        super().__init__()
        self.context_norm = nn.LayerNorm(width, eps=eps)
        self.latent_norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(
            TrajTokPerceiverLayer(
                TrajTokAttention(config, width=width, num_heads=num_heads, positions=positions, theta=theta),
                TrajTokMLP(width=width, ratio=mlp_ratio, eps=eps),
            )
            for _ in range(num_layers)
        )

    def forward(self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None = None) -> Tensor:
        """Latents (B, K*L, D) read patches (B, N, D), all or (with ``membership``) their own -> (B, K*L, D)."""
        blocks = blocks.map(self.context_norm)
        if membership is not None:
            membership = membership._replace(anchor_features=self.context_norm(membership.anchor_features))
        for layer in self.layers:
            latents = layer(self.latent_norm(latents), blocks, membership)
        return latents
