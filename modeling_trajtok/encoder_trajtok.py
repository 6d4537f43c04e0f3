"""Trajectory encoder: the patches of each trajectory become one or a few tokens.

In:   patch_features (B, N, D), trajectory_ids per patch (B, N), and for the soft mean the assignment logits (B, N, K)
Out:  trajectory_embeds (B, K*L, D_out), token_valid (B, K*L)
From: segmenter_trajtok     To: the models on top
Official: segmenter.py (``SegmentTokenizer``)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grid_ops import GridSize
from .perceiver_trajtok import Membership, PatchBlocks, TrajTokPerceiver


class TrajTokGainLinear(nn.Linear):
    """A linear layer whose initial weights have the standard deviation sqrt(2 / in_features).

    What it gives is as large as the tokens that it is added to, whatever the model's ``initializer_range``.
    """


class TrajTokTrackEmbedding(nn.Module):
    """What a trajectory's path looks like: place, area and second moments over time, through an MLP.

    Each clip's valid frames are resampled to a fixed number of moments, so that neither padding nor the frame rate
    matters. Places run from -1 to 1 over the picture.
    """

    NUM_MOMENTS = 8
    NUM_VALUES = 7  # presence, row, column, root of the area, spread in rows, in columns, and of both

    def __init__(self, width: int):
        super().__init__()
        self.up_proj = TrajTokGainLinear(self.NUM_MOMENTS * self.NUM_VALUES, width)
        self.down_proj = TrajTokGainLinear(width, width)

    def forward(self, trajectory_ids: Tensor, num_trajectories: int, grid: GridSize, num_frames: Tensor) -> Tensor:
        """Ids (B, N), -1 = none, in clips of ``num_frames`` (B or 1, 1) valid frames -> (B, K, D)."""
        tracks = self.tracks(trajectory_ids, num_trajectories, grid)
        batch, device = trajectory_ids.shape[0], trajectory_ids.device
        moments = (torch.arange(self.NUM_MOMENTS, device=device) + 0.5) / self.NUM_MOMENTS
        position = (moments * num_frames - 0.5).clamp(min=0).minimum(num_frames - 1.0).expand(batch, -1)
        before = position.floor().long()
        after = (before + 1).minimum(num_frames - 1)
        share = (position - before)[:, :, None, None]

        def at(frame: Tensor) -> Tensor:
            return tracks.gather(1, frame[:, :, None, None].expand(-1, -1, *tracks.shape[2:]))

        resampled = at(before) * (1 - share) + at(after) * share
        values = resampled.transpose(1, 2).flatten(2).to(self.up_proj.weight.dtype)
        return self.down_proj(F.gelu(self.up_proj(values)))

    def tracks(self, trajectory_ids: Tensor, num_trajectories: int, grid: GridSize) -> Tensor:
        """Where and how large each trajectory is in each frame: ids (B, N) -> (B, T, K, `NUM_VALUES`) in fp32."""
        device, per_frame = trajectory_ids.device, grid.patches_per_frame
        row = (2 * torch.arange(grid.h, device=device) + 1) / grid.h - 1
        column = (2 * torch.arange(grid.w, device=device) + 1) / grid.w - 1
        row, column = (axis.flatten() for axis in torch.meshgrid(row, column, indexing="ij"))
        powers = torch.stack((torch.ones_like(row), row, column, row**2, column**2, row * column))
        ids = trajectory_ids.view(-1, 1, per_frame) % (num_trajectories + 1)
        sums = powers.new_zeros(ids.shape[0], powers.shape[0], num_trajectories + 1)
        sums = sums.scatter_add(2, ids.expand(-1, powers.shape[0], -1), powers.expand(ids.shape[0], -1, -1))[..., :-1]
        patches = sums[:, 0]
        rows, columns, rows_2, columns_2, both = (sums[:, 1:] / patches.clamp(min=1).unsqueeze(1)).unbind(1)
        present, area = (patches > 0).to(sums.dtype), patches / per_frame
        # Spreads are of the order of the area; divided by it, they tell the shape and its direction.
        spreads = (rows_2 - rows**2, columns_2 - columns**2, both - rows * columns)
        shapes = [spread / area.clamp(min=1 / per_frame) for spread in spreads]
        values = torch.stack((present, rows, columns, area.sqrt(), *shapes), dim=-1)
        return values.view(trajectory_ids.shape[0], grid.t, num_trajectories, self.NUM_VALUES)


class TrajTokOutlineEmbedding(nn.Module):
    """A trajectory as a silhouette: how it fills its bounding box, mean over frames, through an MLP."""

    SIDE = 8  # cells per side of the box

    def __init__(self, width: int):
        super().__init__()
        self.up_proj = TrajTokGainLinear(self.SIDE**2, width)
        self.down_proj = TrajTokGainLinear(width, width)

    def forward(self, trajectory_ids: Tensor, num_trajectories: int, grid: GridSize) -> Tensor:
        """Ids (B, N), -1 = none -> (B, K, D)."""
        values = self.outlines(trajectory_ids, num_trajectories, grid).flatten(2)
        return self.down_proj(F.gelu(self.up_proj(values.to(self.up_proj.weight.dtype))))

    def outlines(self, trajectory_ids: Tensor, num_trajectories: int, grid: GridSize) -> Tensor:
        """Share of a trajectory's frames in which a cell of its box is its own: ids (B, N) -> (B, K, SIDE, SIDE)."""
        device, batch = trajectory_ids.device, trajectory_ids.shape[0]
        slots = trajectory_ids.view(-1, grid.patches_per_frame) % (num_trajectories + 1)
        place = torch.arange(grid.patches_per_frame, device=device)
        first_row, last_row = self._extent(slots, place // grid.w, num_trajectories)
        first_column, last_column = self._extent(slots, place % grid.w, num_trajectories)
        present = last_row >= 0
        steps = (torch.arange(self.SIDE, device=device) + 0.5) / self.SIDE
        rows, columns = (
            (first.unsqueeze(-1) + steps * (last + 1 - first).unsqueeze(-1)).long() * present.unsqueeze(-1)
            for first, last in ((first_row, last_row), (first_column, last_column))
        )
        cells = rows.unsqueeze(-1) * grid.w + columns.unsqueeze(-2)
        owner = torch.arange(num_trajectories, device=device).view(-1, 1, 1)
        own = slots.gather(1, cells.flatten(1)).view_as(cells) == owner
        own = (own & present[:, :, None, None]).float().view(batch, -1, *own.shape[1:]).sum(dim=1)
        frames = present.float().view(batch, -1, num_trajectories).sum(dim=1)
        return own / frames.clamp(min=1)[:, :, None, None]

    @staticmethod
    def _extent(slots: Tensor, position: Tensor, num_trajectories: int) -> tuple[Tensor, Tensor]:
        """First and last position of each trajectory in each frame, (B*T, K) each; absent ones end at -1."""
        position, shape = position.expand(slots.shape[0], -1), (slots.shape[0], num_trajectories + 1)
        first = slots.new_full(shape, slots.shape[1]).scatter_reduce(1, slots, position, "amin")
        last = slots.new_full(shape, -1).scatter_reduce(1, slots, position, "amax")
        return first[:, :-1], last[:, :-1]


class TrajTokEncoder(nn.Module):
    """K*L queries, each reading the patches of its own trajectory."""

    def __init__(self, config):
        super().__init__()
        width = config.encoder_input_size
        self.num_trajectories = config.num_trajectories
        self.max_tokens = config.max_tokens_per_trajectory
        self.starts_from_mean = config.encoder_queries != "latents"
        if config.encoder_queries != "mean":
            self.latents = nn.Parameter(torch.empty(config.num_trajectories, self.max_tokens, width))
        else:
            self.register_parameter("latents", None)
        self.perceiver = TrajTokPerceiver(
            config,
            width=width,
            num_layers=config.num_encoder_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
            positions=config.encoder_positions,
            theta=config.rotary_theta,
            eps=config.layer_norm_eps,
        )
        self.output_proj = nn.Linear(width, config.encoder_output_size)
        self.track_embedding = TrajTokTrackEmbedding(config.encoder_output_size) if config.track_embedding else None
        self.outline_embedding = (
            TrajTokOutlineEmbedding(config.encoder_output_size) if config.outline_embedding else None
        )

    def forward(
        self,
        blocks: PatchBlocks,
        trajectory_ids: Tensor,
        assignment_logits: PatchBlocks | None,
        anchor_index: Tensor,
        anchor_features: Tensor,
        num_frames: Tensor,
        tokens_per_trajectory: int,
    ) -> tuple[Tensor, Tensor]:
        """Encode the trajectories of a batch of clips.

        Args:
            blocks: patch features (B, N, D).
            trajectory_ids: (B, N) trajectory of each patch, -1 for padding.
            assignment_logits: (B, N, K) in the same blocks, for the soft mean; None: the mean is over the ids.
            anchor_index: (B, A) patches that every trajectory reads.
            anchor_features: (B, A, D) their features.
            num_frames: (B or 1, 1) valid frames of each clip.
            tokens_per_trajectory: L of this call, at most the L that was built.

        Returns:
            trajectory_embeds (B, K*L, D_out) and token_valid (B, K*L): the trajectory owns at least one patch.
        """
        queries = self._queries(blocks, trajectory_ids, assignment_logits, tokens_per_trajectory)
        batch = blocks.batch_size
        membership = Membership(
            patch_trajectory=trajectory_ids.scatter(1, anchor_index, -1),
            anchor_index=anchor_index,
            anchor_features=anchor_features,
            num_trajectories=self.num_trajectories,
        )
        tokens = self.output_proj(self.perceiver(queries.expand(batch, -1, -1), blocks, membership)[-1])
        if self.track_embedding is not None:
            tracks = self.track_embedding(trajectory_ids, self.num_trajectories, blocks.grid, num_frames)
            tokens = tokens + tracks.repeat_interleave(tokens_per_trajectory, dim=1)
        if self.outline_embedding is not None:
            outlines = self.outline_embedding(trajectory_ids, self.num_trajectories, blocks.grid)
            tokens = tokens + outlines.repeat_interleave(tokens_per_trajectory, dim=1)

        present = trajectory_ids.new_zeros(batch, self.num_trajectories + 1, dtype=torch.bool)
        present = present.scatter(1, trajectory_ids % (self.num_trajectories + 1), True)[:, :-1]
        return tokens, present.repeat_interleave(tokens_per_trajectory, dim=1)

    def _queries(
        self, blocks: PatchBlocks, trajectory_ids: Tensor, assignment_logits: PatchBlocks | None, tokens: int
    ) -> Tensor:
        """Learnt latents, the mean of each trajectory's features, or their sum: (1 or B, K*L, D)."""
        latents = None if self.latents is None else self.latents[:, :tokens].flatten(0, 1).unsqueeze(0)
        if not self.starts_from_mean:
            return latents
        if assignment_logits is None:
            memberships = PatchBlocks(trajectory_ids, blocks.layout)
            memberships = memberships.map(lambda ids: F.one_hot(ids + 1, self.num_trajectories + 1)[..., 1:])
        else:
            memberships = assignment_logits.map(lambda logits: logits.softmax(dim=-1))
        total, weight = 0.0, 0.0
        for (_, features, valid), (_, probs, _) in zip(blocks, memberships, strict=True):
            probs = probs.to(features.dtype)
            if valid is not None:
                probs = probs * valid.unsqueeze(-1)
            total = total + probs.transpose(1, 2) @ features
            weight = weight + probs.sum(dim=1)
        means = (total / (weight + 1e-6).unsqueeze(-1)).repeat_interleave(tokens, dim=1)
        return means if latents is None else latents + means
