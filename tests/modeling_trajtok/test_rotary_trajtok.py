"""Rotary positions: what the scores of rotated queries and keys depend on."""

import pytest
import torch

from modeling_trajtok.grid_ops import GridSize
from modeling_trajtok.rotary_trajtok import RotaryPositions, Rotation

GRID = GridSize(4, 3, 5)
HEAD_DIM = 32


@pytest.fixture(params=["sequence", "grid"])
def rotary(request) -> RotaryPositions:
    return RotaryPositions(positions=request.param, head_dim=HEAD_DIM, theta=10000.0)


def test_number_of_turned_channels():
    assert RotaryPositions(positions="sequence", head_dim=32, theta=1e4).num_pairs == 8  # half of the channels
    assert RotaryPositions(positions="grid", head_dim=32, theta=1e4).num_pairs == 6  # 32 // 12 * 6 channels
    assert RotaryPositions(positions="grid", head_dim=8, theta=1e4).num_pairs == 0


def test_angles_of_a_patch_on_the_grid():
    rotary = RotaryPositions(positions="grid", head_dim=24, theta=100.0)
    t, h, w = 3, 1, 4
    angles = rotary.patch_angles(torch.tensor((t * GRID.h + h) * GRID.w + w), GRID, num_latents=7)
    assert angles.tolist() == pytest.approx([t, t / 10, h, h / 10, w, w / 10])


def test_patches_follow_the_latents_in_a_sequence():
    rotary = RotaryPositions(positions="sequence", head_dim=8, theta=100.0)
    assert rotary.latent_angles(3, torch.device("cpu")).tolist() == [[0, 0], [1, 0.1], [2, 0.2]]
    assert rotary.patch_angles(torch.arange(2), GRID, num_latents=3).flatten().tolist() == pytest.approx(
        [3, 0.3, 4, 0.4]
    )


def test_latents_on_the_grid_do_not_turn():
    rotary = RotaryPositions(positions="grid", head_dim=HEAD_DIM, theta=1e4)
    assert not rotary.latent_angles(5, torch.device("cpu")).any()


def test_a_block_of_frames_may_start_at_zero(rotary):
    """Turning the queries back by the block's offset is turning the keys forward by it."""
    torch.manual_seed(0)
    frame, num_latents = 2, 6
    patch_index = torch.arange(frame * GRID.patches_per_frame, GRID.num_patches)
    keys = torch.randn(1, len(patch_index), 1, HEAD_DIM, dtype=torch.float64)
    queries = torch.randn(1, num_latents, 1, HEAD_DIM, dtype=torch.float64)
    latent_angles = rotary.latent_angles(num_latents, keys.device)
    offset = rotary.frame_offset(frame, GRID, keys.device)

    def scores(query_angles, key_angles):
        turned_queries = Rotation.from_angles(query_angles, torch.float64)(queries)
        turned_keys = Rotation.from_angles(key_angles, torch.float64)(keys)
        return torch.einsum("bmhd,bnhd->bmn", turned_queries, turned_keys)

    expected = scores(latent_angles, rotary.patch_angles(patch_index, GRID, num_latents))
    block_index = patch_index - frame * GRID.patches_per_frame
    found = scores(latent_angles - offset, rotary.patch_angles(block_index, GRID, num_latents))
    torch.testing.assert_close(found, expected)


def test_rotation_keeps_lengths_and_turns_pairs():
    states = torch.tensor([1.0, 0.0, 0.0, 2.0, 7.0]).view(1, 1, 1, 5)  # two pairs: (1, 0) and (0, 2); the last stays
    turned = Rotation.from_angles(torch.full((1, 2), torch.pi / 2), torch.float32)(states)
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.0, -2.0, 1.0, 0.0, 7.0]))


def test_far_positions_stay_sharp():
    """Angles are taken in double precision: 10^6 patches away, neighbours still differ by one radian."""
    rotary = RotaryPositions(positions="sequence", head_dim=8, theta=1e4)
    far = torch.tensor([3_000_000, 3_000_001])
    cos, sin = Rotation.from_angles(rotary.patch_angles(far, GRID, 0), torch.float32)
    assert torch.acos((cos[0] * cos[1] + sin[0] * sin[1])[0, 0]).item() == pytest.approx(1.0, abs=1e-4)
