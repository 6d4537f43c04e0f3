"""Perceiver: a set of latents reads the patches of a clip.

In:   latents (B, K*L, D), patches (B, N, D) in blocks of frames, optionally which trajectory owns each patch
Out:  latents (B, K*L, D)
From: segmenter_trajtok, encoder_trajtok (both perceivers have this shape)
Official: traj_perceiver.py (``TrajPerceiver``: "grid" positions), perceiver_resampler.py ("sequence" positions)

Attention is computed in one of three ways, with the same result:
* all patches visible to all latents, in one block: Transformers' attention interface (sdpa, flash, flex, eager);
* all visible, several blocks: one softmax per block, merged by their log-sum-exps, so memory is that of one block;
* patches visible to their own trajectory only: they are sorted by trajectory into short rows, and each row meets the
  queries of one trajectory. No (K*L, N) mask exists, and since a patch serves one trajectory, its value and most
  of its key are never computed: queries are carried into the patches' space and results out of it. "eager" builds the
  mask instead and serves as the reference.
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
# Keys whose scores are in flight at a time: enough to be efficient, few enough to stay in the processor's cache.
KEYS_AT_A_TIME = 3072
# Patches of one trajectory that are handled together: longer rows pad more, shorter ones repeat queries more often.
SEGMENT_LENGTH = 32


class PatchBlock(NamedTuple):
    """Consecutive frames of the clips: first frame, features (B, n, D), and which patches are real (B, n) or None."""

    first_frame: int
    features: Tensor
    valid: Tensor | None


class BlockLayout(NamedTuple):
    """How the patches of a batch of clips are cut into blocks of frames.

    Attributes:
        batch_size: B.
        grid: size of the whole clip.
        frames_per_block: frames that are served at a time; as many as the clip has, or more: the clip is one block.
        valid: (B, N), False for patches of padded frames; None if all are real.
    """

    batch_size: int
    grid: GridSize
    frames_per_block: int
    valid: Tensor | None = None


class PatchBlocks:
    """Patch features of a batch of clips, served in blocks of frames, as often as they are asked for.

    Args:
        source: features (B, N, D) in memory, or a function ``read(first_frame, last_frame)`` -> features (B, n, D) of
            these frames (last one excluded).
        layout: how they are cut into blocks.
    """

    def __init__(self, source: Tensor | Callable[[int, int], Tensor], layout: BlockLayout):
        self.source = source
        self.layout = layout

    @classmethod
    def from_features(
        cls, features: Tensor, grid: GridSize, frames_per_block: int, valid: Tensor | None = None
    ) -> "PatchBlocks":
        """Serve features (B, N, D) that are in memory; ``valid`` as in `BlockLayout`."""
        return cls(features, BlockLayout(features.shape[0], grid, frames_per_block, valid))

    @property
    def batch_size(self) -> int:
        """B."""
        return self.layout.batch_size

    @property
    def grid(self) -> GridSize:
        """Size of the whole clip."""
        return self.layout.grid

    @property
    def valid(self) -> Tensor | None:
        """(B, N), False for patches of padded frames; None if all are real."""
        return self.layout.valid

    @property
    def is_whole(self) -> bool:
        """Whether one block holds the clip."""
        return self.layout.frames_per_block >= self.grid.t

    @property
    def block_grid(self) -> GridSize:
        """Size of a full block."""
        return self.grid if self.is_whole else self.grid._replace(t=self.layout.frames_per_block)

    def __iter__(self) -> Iterator[PatchBlock]:
        if self.is_whole:  # Without a loop over T, so that one compiled graph serves clips of every length.
            yield PatchBlock(0, self.whole(), self.valid)
            return
        per_frame = self.grid.patches_per_frame
        for first in range(0, self.grid.t, self.layout.frames_per_block):
            last = min(first + self.layout.frames_per_block, self.grid.t)
            valid = None if self.valid is None else self.valid[:, first * per_frame : last * per_frame]
            yield PatchBlock(first, self.read(first, last), valid)

    def read(self, first: int, last: int) -> Tensor:
        """Features (B, n, D) of the frames ``first`` to ``last``, the last one excluded."""
        if not isinstance(self.source, Tensor):
            return self.source(first, last)
        per_frame = self.grid.patches_per_frame
        return self.source[:, first * per_frame : last * per_frame]

    def whole(self) -> Tensor:
        """All features (B, N, D)."""
        return self.source if isinstance(self.source, Tensor) else self.source(0, self.grid.t)

    def map(self, function: Callable[[Tensor], Tensor]) -> "PatchBlocks":
        """Blocks of ``function(features)``; applied once if the clip is one block, else whenever a block is read."""
        if self.is_whole:
            return PatchBlocks(function(self.whole()), self.layout)
        return PatchBlocks(lambda first, last: function(self.read(first, last)), self.layout)


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


def read_last_patches(blocks: PatchBlocks, frame_valid: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The last two patches of each clip, which every trajectory reads: their index (B, A) and features (B, A, D).

    Official parity (``make_query_mask``): an empty trajectory would have nothing to read otherwise.

    Args:
        blocks: patch features of the clips.
        frame_valid: (B, T), or None if no frame is padded.
        device: where the index is needed.
    """
    grid = blocks.grid
    num_anchors = min(2, grid.num_patches)
    steps_back = torch.arange(num_anchors, 0, -1, device=device)
    if frame_valid is None:
        num_frames = 1 if grid.patches_per_frame >= num_anchors else num_anchors
        features = blocks.read(grid.t - num_frames, grid.t)[:, -num_anchors:]
        return (grid.num_patches - steps_back).expand(blocks.batch_size, -1), features
    end = frame_valid.sum(dim=1, keepdim=True) * grid.patches_per_frame
    index = (end - steps_back).clamp(min=0)
    features = blocks.whole()
    return index, features.gather(1, index.unsqueeze(2).expand(-1, -1, features.shape[2]))


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


def attend_all(queries: Tensor, keys: Tensor, values: Tensor, key_valid: Tensor | None) -> PartialAttention:
    """Every query reads every key.

    Args:
        queries: (B, M, heads, d), scaled.
        keys: (B, n, heads, d).
        values: (B, n, heads, e).
        key_valid: (B, n) or None if all are.
    """
    result = None
    for first in range(0, keys.shape[1], KEYS_AT_A_TIME):
        chunk = slice(first, first + KEYS_AT_A_TIME)
        part = _attend_chunk(
            queries, keys[:, chunk], values[:, chunk], None if key_valid is None else key_valid[:, chunk]
        )
        result = part if result is None else result.merge(part)
    return result


def _attend_chunk(queries: Tensor, keys: Tensor, values: Tensor, key_valid: Tensor | None) -> PartialAttention:
    scores = (queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1)).float()  # (B, heads, M, n)
    if key_valid is not None:
        scores = scores.masked_fill(~key_valid[:, None, None], NO_SCORE)
    maximum = scores.detach().amax(dim=-1, keepdim=True)
    weights = scores.sub_(maximum).exp_()
    if key_valid is not None:
        weights = weights * key_valid[:, None, None]
    total = weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    output = (weights.to(values.dtype) @ values.transpose(1, 2)).float() / total
    return PartialAttention(output.transpose(1, 2), (maximum + total.log()).squeeze(-1).transpose(1, 2))


class Segments(NamedTuple):
    """Patches sorted by trajectory, in segments of R patches that belong to one trajectory.

    Attributes:
        patch: (S, R) index of each patch among the B*n patches of the block; padding repeats patch 0.
        filled: (S, R), False for padding.
        group: (S,) clip * K + trajectory of each segment; B*K for segments without patches.
    """

    patch: Tensor
    filled: Tensor
    group: Tensor


def sort_into_segments(patch_trajectory: Tensor, num_trajectories: int) -> Segments:
    """Sort the patches of a block (B, n) by trajectory; patches of trajectory -1 are left out.

    The number of segments is a bound that depends on shapes alone, so that the graph is the same for every video.
    """
    batch, num_patches = patch_trajectory.shape
    num_groups, device = batch * num_trajectories, patch_trajectory.device
    first_group = torch.arange(0, num_groups, num_trajectories, device=device).unsqueeze(1)
    group = torch.where(patch_trajectory >= 0, patch_trajectory + first_group, num_groups).flatten()
    if torch.compiler.is_exporting():  # ONNX has no other sort. Patches of one trajectory may stand in any order.
        order = group.topk(group.shape[0], largest=False).indices
    else:
        order = group.argsort(stable=True)
    sorted_group = group[order]

    sizes = torch.zeros(num_groups + 1, dtype=torch.int64, device=device).index_add(0, group, torch.ones_like(group))
    first_patch = sizes.cumsum(0) - sizes
    segments = (sizes + SEGMENT_LENGTH - 1) // SEGMENT_LENGTH
    first_segment = segments[:-1].cumsum(0) - segments[:-1]
    num_segments = batch * num_patches // SEGMENT_LENGTH + num_groups
    slot = first_segment[sorted_group.clamp(max=num_groups - 1)] * SEGMENT_LENGTH
    slot = slot + torch.arange(order.shape[0], device=device) - first_patch[sorted_group]
    # Patches that nobody reads land behind all segments and are cut off.
    slot = torch.where(sorted_group < num_groups, slot, num_segments * SEGMENT_LENGTH)

    patch = order.new_zeros(num_segments * SEGMENT_LENGTH + 1).scatter(0, slot, order)[:-1]
    filled = torch.zeros_like(patch, dtype=torch.bool)
    filled = F.pad(filled, (0, 1)).scatter(0, slot, True)[:-1]
    shape = (num_segments, SEGMENT_LENGTH)
    segment_group = sorted_group.new_full((num_segments + 1,), num_groups)
    segment_group = segment_group.scatter(0, slot // SEGMENT_LENGTH, sorted_group)[:-1]
    return Segments(patch.view(shape), filled.view(shape), segment_group)


def attend_own(
    queries: Tensor,
    features: Tensor,
    key_weight: Tensor,
    rotation: Rotation,
    patch_trajectory: Tensor,
    num_trajectories: int,
) -> PartialAttention:
    """Every patch is read by the latents of its own trajectory, and only by them.

    Args:
        queries: (B, K*L, heads, d), scaled and rotated.
        features: (B, n, D) patches, normed.
        key_weight: (heads, d, D); the channels that do not turn are applied to the queries instead of the patches.
        rotation: of the n patches.
        patch_trajectory: (B, n) in -1 ... K-1; -1 is read by none.
        num_trajectories: K.

    Returns:
        Attention whose output (B, K*L, heads, D) is a mean of features, not yet of values.
    """
    batch, num_patches, width = features.shape
    heads, head_dim, turning = *key_weight.shape[:2], 2 * rotation.cos.shape[-1]
    num_groups, tokens = batch * num_trajectories, queries.shape[1] // num_trajectories
    segments = sort_into_segments(patch_trajectory, num_trajectories)
    rows = features.reshape(-1, width)[segments.patch]  # (S, R, D)
    queries = queries.reshape(num_groups, tokens, heads, head_dim)
    own = segments.group.clamp(max=num_groups - 1)

    carried = torch.einsum("glhd,hdw->glhw", queries[..., turning:], key_weight[:, turning:]).flatten(1, 2)
    scores = carried[own] @ rows.transpose(1, 2)  # (S, L*heads, R)
    keys = F.linear(rows, key_weight[:, :turning].reshape(-1, width)).unflatten(-1, (heads, -1))
    place = torch.arange(num_patches, device=features.device).repeat(batch)
    keys = rotation.of(place[segments.patch])(keys)
    scores = scores + torch.einsum("slhd,srhd->slhr", queries[own, ..., :turning], keys).flatten(1, 2)
    scores = scores.float().masked_fill(~segments.filled.unsqueeze(1), NO_SCORE)

    with torch.no_grad():
        highest = scores.amax(dim=2)
        maximum = highest.new_full((num_groups + 1, tokens * heads), NO_SCORE)
        index = segments.group.unsqueeze(1).expand_as(highest)
        maximum = maximum.scatter_reduce(0, index, highest, reduce="amax")
    weights = (scores - maximum[segments.group].unsqueeze(2)).exp() * segments.filled.unsqueeze(1)
    total = torch.zeros_like(maximum).index_add(0, segments.group, weights.sum(dim=2))
    summed = maximum.new_zeros(*maximum.shape, width)
    summed = summed.index_add(0, segments.group, (weights.to(rows.dtype) @ rows).float())

    shape = (batch, num_trajectories * tokens, heads)
    total = total[:-1].clamp_min(torch.finfo(torch.float32).tiny)
    output = (summed[:-1] / total.unsqueeze(-1)).view(*shape, width)
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

    def _per_head(self, projection: nn.Linear, states: Tensor) -> Tensor:
        """The matrix that a projection applies to states (..., D), as (heads, d, D).

        Asked of the module, not read from its weight: adapters and offloading act on the call.
        """
        identity = torch.eye(states.shape[-1], dtype=states.dtype, device=states.device)
        return projection(identity).t().unflatten(0, (self.num_heads, -1))

    def _norm_context(self, features: Tensor) -> Tensor:
        return self.context_norm(features) if self.reads_latents else features

    def _project_context(self, features: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Features (B, n, D) -> keys and values (B, n, heads, d)."""
        features = self._norm_context(features)
        return rotation(self._heads(self.k_proj(features))), self._heads(self.v_proj(features))

    def forward(
        self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Latents (B, K*L, D) -> what they read, (B, K*L, D), and with which weights.

        The weights (B, heads, K*L, N), or (B, heads, K*L, K*L + N) over ``[latents ; patches]``, are those of "eager"
        attention to clips of one block; otherwise nobody computes them, and they are None.
        """
        if self.reads_latents:
            latents = self.latent_norm(latents)
        if not blocks.is_whole or (membership is not None and self.config._attn_implementation != "eager"):
            return self.out_proj(self._attend_in_blocks(latents, blocks, membership)), None
        output, weights = self._attend_at_once(latents, blocks, membership)
        return self.out_proj(output), weights

    def _attend_at_once(
        self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None
    ) -> tuple[Tensor, Tensor | None]:
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
        output, weights = attention(
            self,
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attention_mask=self._key_mask(latents, keys, blocks, membership),
            scaling=self.scaling,
            is_causal=False,
        )
        # What other implementations give in this place is not the weights.
        return output.flatten(2), weights if self.config._attn_implementation == "eager" else None

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
        block_angles = self.rotary.patch_angles(block_index, blocks.block_grid, num_latents)
        block_rotation = Rotation.from_angles(block_angles, dtype)
        queries = self._heads(self.q_proj(latents)) * self.scaling

        key_weight = None if membership is None else self._per_head(self.k_proj, latents)

        result = self._attend_to_shared(queries, latents, latent_angles, blocks.grid, membership)
        first_patch = 0
        for first_frame, features, valid in blocks:
            last_patch = first_patch + features.shape[1]
            rotation = block_rotation.of(slice(0, features.shape[1]))
            offset = self.rotary.frame_offset(first_frame, blocks.grid, device)
            block_queries = Rotation.from_angles(latent_angles - offset, dtype)(queries)
            if membership is None:
                part = attend_all(block_queries, *self._project_context(features, rotation), valid)
            else:
                part = attend_own(
                    block_queries,
                    self._norm_context(features),
                    key_weight,
                    rotation,
                    membership.patch_trajectory[:, first_patch:last_patch],
                    membership.num_trajectories,
                )
            result = part if result is None else result.merge(part)
            first_patch = last_patch
        output = result.output.to(dtype)
        if membership is not None:
            output = torch.einsum("bmhw,hdw->bmhd", output, self._per_head(self.v_proj, latents))
        return output.flatten(2)

    def _attend_to_shared(
        self, queries: Tensor, latents: Tensor, latent_angles: Tensor, grid: GridSize, membership: Membership | None
    ) -> PartialAttention | None:
        """Attention to what stands outside the blocks: latents, and the anchor patches of a membership.

        With a membership the output is a mean of features, as that of `attend_own`.
        """
        batch, num_latents, dtype = *latents.shape[:2], latents.dtype
        rotation = Rotation.from_angles(latent_angles, dtype)
        shape = (batch, num_latents, self.num_heads)
        if membership is None:
            if not self.reads_latents:
                return None
            keys, values = rotation(self._heads(self.k_proj(latents))), self._heads(self.v_proj(latents))
            return attend_all(rotation(queries), keys, values, None)

        # One small set of keys for each trajectory: its own latents, and the anchors.
        num_sets = membership.num_trajectories
        angles = self.rotary.patch_angles(membership.anchor_index, grid, num_latents)
        features = self._norm_context(membership.anchor_features)
        keys = Rotation.from_angles(angles, dtype)(self._heads(self.k_proj(features)))
        keys, features = keys.repeat_interleave(num_sets, dim=0), features.repeat_interleave(num_sets, dim=0)
        if self.reads_latents:
            own_keys = rotation(self._heads(self.k_proj(latents)))
            keys = torch.cat((own_keys.reshape(batch * num_sets, -1, *keys.shape[2:]), keys), dim=1)
            features = torch.cat((latents.reshape(batch * num_sets, -1, latents.shape[2]), features), dim=1)
        values = features.unsqueeze(2).expand(-1, -1, self.num_heads, -1)
        set_queries = rotation(queries).reshape(batch * num_sets, -1, *queries.shape[2:])
        part = attend_all(set_queries, keys, values, None)
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
        """(B, M, D) -> (B, M, D)."""
        states = self.norm(states)
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


def checkpoint_input(module: nn.Module, states: Tensor) -> Tensor:
    """Return the input of a checkpointed module, asking for a gradient if a parameter of the module does.

    A reentrant checkpoint gives parameters a gradient only where one of its arguments asks for one; pixels and the
    outputs of frozen layers do not.
    """
    if states.requires_grad or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return states
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return states
    return states.detach().requires_grad_()


class TrajTokPerceiverLayer(GradientCheckpointingLayer):
    """Attention to the patches, then the MLP, each with a residual connection.

    Every tensor that carries a gradient is an argument of its own: a reentrant checkpoint detaches, and a device map
    moves, what it finds among the arguments.
    """

    def __init__(self, attention: TrajTokAttention, mlp: TrajTokMLP):
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def forward(
        self,
        latents: Tensor,
        source: Tensor | Callable[[int, int], Tensor],
        layout: BlockLayout,
        *membership: Tensor | int,
    ) -> Tensor:
        """Let latents read patches.

        Args:
            latents: (B, K*L, D).
            source: the patches, as in `PatchBlocks`.
            layout: how they are cut into blocks.
            *membership: the fields of a `Membership`; none where every latent reads every patch.

        Returns:
            The latents (B, K*L, D).
        """
        blocks = PatchBlocks(source, layout)
        attended, _ = self.attention(latents, blocks, Membership(*membership) if membership else None)
        latents = latents + attended
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

    def forward(
        self, latents: Tensor, blocks: PatchBlocks, membership: Membership | None = None
    ) -> tuple[Tensor, ...]:
        """Latents (B, K*L, D) read patches (B, N, D), all or (with ``membership``) their own.

        Returns:
            The latents (B, K*L, D) after each layer.
        """
        blocks = blocks.map(self.context_norm)
        if membership is not None:
            membership = membership._replace(anchor_features=self.context_norm(membership.anchor_features))
        states = []
        for layer in self.layers:
            latents = self.latent_norm(latents)
            if layer.gradient_checkpointing and layer.training:
                latents = checkpoint_input(layer, latents)
            latents = layer(latents, blocks.source, blocks.layout, *(membership or ()))
            states.append(latents)
        return tuple(states)
