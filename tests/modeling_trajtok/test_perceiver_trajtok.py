"""Patches are served in blocks of frames, and blocks can be transformed as they are read."""

import torch

from modeling_trajtok.grid_ops import GridSize
from modeling_trajtok.perceiver_trajtok import PatchBlocks


def test_blocks_serve_every_frame_once_in_order():
    grid = GridSize(5, 2, 3)
    features = torch.arange(2 * 30.0).view(2, 30, 1)
    valid = torch.arange(30).expand(2, 30) < 24
    blocks = PatchBlocks.from_features(features, grid, 2, valid)
    assert [block.first_frame for block in blocks] == [0, 2, 4]
    assert torch.equal(torch.cat([block.features for block in blocks], dim=1), features)
    assert torch.equal(torch.cat([block.valid for block in blocks], dim=1), valid)
    doubled = blocks.map(lambda x: 2 * x)
    assert not doubled.is_whole and torch.equal(doubled.whole(), 2 * features)
    assert PatchBlocks.from_features(features, grid, 9).is_whole
