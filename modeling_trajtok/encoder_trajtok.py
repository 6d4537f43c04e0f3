"""Trajectory encoder: the patches of each trajectory become one or a few tokens.

In:   patch_features (B, N, D), trajectory_ids per patch (B, N), and for the soft mean the assignment logits (B, N, K)
Out:  trajectory_embeds (B, K*L, D_out), token_valid (B, K*L)
From: segmenter_trajtok     To: the models on top
Official: segmenter.py (``SegmentTokenizer``)
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grid_ops import GridSize
from .perceiver_trajtok import Membership, PatchBlocks, TrajTokPerceiver


class TrajTokPatchPositions(nn.Module):
    """An embedding of where and when each patch is: sines of its time, row and column (each 0 to 1), then an MLP.

    The MLP makes functions of time and place together, so that even a plain mean over the patches of a trajectory tells
    how it moves. Time runs over the valid frames of a clip, so padding does not change it.
    """

    def __init__(self, width: int, num_frequencies: int = 4):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.up_proj = nn.Linear(6 * num_frequencies, width)
        self.down_proj = nn.Linear(width, width)

    def forward(self, patch_index: Tensor, grid: GridSize, num_frames: Tensor) -> Tensor:
        """Patches (B or 1, n) of clips of ``num_frames`` (B or 1, 1) valid frames -> (B or 1, n, D)."""
        in_frame = patch_index % grid.patches_per_frame
        time = (patch_index // grid.patches_per_frame + 0.5) / num_frames
        row = (in_frame // grid.w + 0.5) / grid.h
        column = (in_frame % grid.w + 0.5) / grid.w
        places = torch.stack(torch.broadcast_tensors(time, row, column), dim=-1)
        octaves = torch.pi * 2.0 ** torch.arange(self.num_frequencies, device=patch_index.device)
        angles = (places.unsqueeze(-1) * octaves).flatten(-2)
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.down_proj(F.gelu(self.up_proj(waves.to(self.up_proj.weight.dtype))))


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
        self.patch_positions = TrajTokPatchPositions(width) if config.patch_positions else None
        self.output_proj = nn.Linear(width, config.encoder_output_size)

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
        if self.patch_positions is not None:
            blocks, grid = blocks.with_positions(partial(self.patch_positions, num_frames=num_frames)), blocks.grid
            anchor_features = anchor_features + self.patch_positions(anchor_index, grid, num_frames)
        queries = self._queries(blocks, trajectory_ids, assignment_logits, tokens_per_trajectory)
        batch = blocks.batch_size
        membership = Membership(
            patch_trajectory=trajectory_ids.scatter(1, anchor_index, -1),
            anchor_index=anchor_index,
            anchor_features=anchor_features,
            num_trajectories=self.num_trajectories,
        )
        tokens = self.output_proj(self.perceiver(queries.expand(batch, -1, -1), blocks, membership)[-1])

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
            memberships = PatchBlocks.from_features(trajectory_ids, blocks.grid, blocks.frames_per_block)
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
