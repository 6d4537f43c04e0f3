"""Any of the towers in place of TrajViT2's, so that text tower, losses, training and evaluation are the same.

In:   a name, a `TrajViT2Config`
Out:  a `TrajViT2Model` with that tower
To:   experiments
"""

from modeling_trajtok import TrajViT2Config, TrajViT2Model
from modeling_trajtok.segmenter_trajtok import TrajTokPatchEncoder

from .blocks import TowerConfig
from .dense_vit import DenseTower
from .given_trajectories import GivenTrajectoriesTower
from .run_length import RunLengthTower
from .token_learner import TokenLearnerTower
from .token_merging import TokenMergingTower

PATCH_TOWERS = {
    "vit3d": DenseTower,
    "tome": TokenMergingTower,
    "rlt": RunLengthTower,
    "tokenlearner": TokenLearnerTower,
}
RIVALS = (*PATCH_TOWERS, "given-trajectories", "trajvit2")


def build_rival(
    name: str,
    config: TrajViT2Config,
    tower: TowerConfig | None = None,
    patch_encoder: TrajTokPatchEncoder | None = None,
    **settings,
) -> TrajViT2Model:
    """A new model.

    Args:
        name: one of `RIVALS`.
        config: of the text tower and of the space in which videos and texts meet; of the trajectory towers all.
        tower: sizes of a tower of patches (default: those of ``config``'s transformer).
        patch_encoder: whose features a tower of patches reads instead of pixels.
        **settings: of the tower, such as ``merged_share``.

    Raises:
        ValueError: for another name, or a tower of another width than the projection reads.
    """
    if name not in RIVALS:
        raise ValueError(f"There is no rival {name!r}, expected one of {', '.join(RIVALS)}.")
    model, sizes = TrajViT2Model(config), config.transformer_config
    if name == "given-trajectories":
        model.video_model = GivenTrajectoriesTower(config)
    elif name != "trajvit2":
        tower = tower or TowerConfig(
            width=sizes.hidden_size,
            num_layers=sizes.num_hidden_layers,
            num_heads=sizes.num_attention_heads,
            mlp_ratio=max(1, sizes.intermediate_size // sizes.hidden_size),
            num_frames=config.num_frames,
        )
        if tower.width != sizes.hidden_size:
            raise ValueError(f"The tower has width {tower.width}, expected {sizes.hidden_size} as in the config.")
        model.video_model = PATCH_TOWERS[name](tower, patch_encoder, **settings)
    return model
