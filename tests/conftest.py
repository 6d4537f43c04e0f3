"""Fixtures that several rooms share: where the real data lies, and a model small enough for every test."""

import os
from pathlib import Path

import pytest
import torch

from modeling_trajtok import TrajTokConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(2)


def _folder(path: Path, what: str) -> Path:
    if path.is_dir():
        return path
    message = f"{what} are not at {path}; they lie beside the repository, not in it."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and ground-truth sequences."""
    return _folder(SHARED / "data", "Real clips")


@pytest.fixture
def tiny_config() -> TrajTokConfig:
    """Sizes that all differ, so that swapped axes cannot hide: K 6, L 2, D 48, 3 heads."""
    return TrajTokConfig(
        backbone_config={
            "model_type": "dinov3_convnext",
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 12, 16, 20],
            "layer_scale_init_value": 0.5,
        },
        hidden_size=48,
        num_attention_heads=3,
        num_trajectories=6,
        num_query_layers=2,
        num_encoder_layers=1,
        max_tokens_per_trajectory=2,
        initializer_range=0.2,
        initial_logit_scale=10.0,
    )
