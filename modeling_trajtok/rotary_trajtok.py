"""Rotary positions of patches and latents.

In:   a patch grid, or patch indices
Out:  angles (..., P) in radians, P channel pairs per head; `Rotation` applies them
To:   perceiver_trajtok

Scores depend only on the difference of angles. A block of frames is therefore rotated as if it began at frame 0, and
the queries are rotated back by the block's offset: one table of angles serves every block of every layer.

Each head's channels are ordered ``[first of every pair | second of every pair | not rotated]``; the original
interleaves the pairs, and the checkpoint converter reorders the query and key weights once.
Official: traj_perceiver.py (``RotaryEmbedding3D``) and lucidrains' rotary-embedding-torch.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .grid_ops import GridSize


class RotaryPositions:
    """Angles of one attention head, for positions along the token sequence or on the (t, h, w) grid.

    Args:
        positions: "sequence": latents stand at 0 ... K*L-1 and patch n at K*L + n, and half of the head's channels
            turn. "grid": patches stand at (t, h, w), latents at the origin, and ``head_dim // 12 * 6`` channels turn,
            a third for each axis.
        head_dim: channels of one head.
        theta: base of the frequencies.
    """

    def __init__(self, *, positions: Literal["sequence", "grid"], head_dim: int, theta: float):
        self.positions = positions
        self.theta = theta
        self.pairs_per_axis = head_dim // 4 if positions == "sequence" else head_dim // 12

    @property
    def num_pairs(self) -> int:
        """P, channel pairs of a head that are rotated."""
        return self.pairs_per_axis * (1 if self.positions == "sequence" else 3)

    def _frequencies(self, device: torch.device) -> Tensor:
        # Angles reach 10^5 rad on long videos: single precision would blur the fastest pairs there.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        steps = torch.arange(self.pairs_per_axis, dtype=dtype, device=device)
        return self.theta ** (-steps / max(self.pairs_per_axis, 1))

    def patch_angles(self, patch_index: Tensor, grid: GridSize, num_latents: int) -> Tensor:
        """Angles of patches: index n (...,) on ``grid`` -> (..., P)."""
        frequencies = self._frequencies(patch_index.device)
        if self.positions == "sequence":
            return (patch_index + num_latents).unsqueeze(-1) * frequencies
        t = patch_index // grid.patches_per_frame
        h = patch_index // grid.w % grid.h
        w = patch_index % grid.w
        return torch.cat([axis.unsqueeze(-1) * frequencies for axis in (t, h, w)], dim=-1)

    def frame_offset(self, frame: int, grid: GridSize, device: torch.device) -> Tensor:
        """What `patch_angles` gains when every patch moves ``frame`` frames on -> (P,)."""
        origin = torch.zeros((), dtype=torch.int64, device=device)
        moved = origin + frame * grid.patches_per_frame
        return self.patch_angles(moved, grid, 0) - self.patch_angles(origin, grid, 0)

    def latent_angles(self, num_latents: int, device: torch.device) -> Tensor:
        """Angles of the latents -> (K*L, P)."""
        if self.positions == "sequence":
            return torch.arange(num_latents, device=device).unsqueeze(-1) * self._frequencies(device)
        return self._frequencies(device).new_zeros(num_latents, self.num_pairs)


class Rotation(NamedTuple):
    """Cosines and sines of rotation angles, each (..., n, 1, P): they broadcast over heads."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def from_angles(cls, angles: Tensor, dtype: torch.dtype) -> "Rotation":
        """Angles (..., n, P) in radians -> a rotation in the type of the states it will turn."""
        return cls(angles.cos().to(dtype).unsqueeze(-2), angles.sin().to(dtype).unsqueeze(-2))

    def __call__(self, states: Tensor) -> Tensor:
        """Turn the channel pairs of every head: (B, n, heads, head_dim) -> the same shape and type."""
        pairs = self.cos.shape[-1]
        first, second, rest = states.split((pairs, pairs, states.shape[-1] - 2 * pairs), dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin, rest), dim=-1)

    def of(self, tokens: slice | Tensor) -> "Rotation":
        """The rotation of some tokens: a slice, or indices of any shape (...) -> (..., 1, P)."""
        return Rotation(self.cos[tokens], self.sin[tokens])
