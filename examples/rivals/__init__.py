"""Video towers to compare trajectory tokens with: the same transformer, the same text tower, other tokens.

The rooms:
    blocks.py              patches of a clip, the transformer blocks that all share
    dense_vit.py           ViT3D: every patch of space and time is a token
    token_merging.py       ToMe: in each block the most similar tokens are merged
    run_length.py          RLT: patches that do not change are left out, and the length of their run is told
    token_learner.py       TokenLearner: so many weighted means of the patches of each frame
    given_trajectories.py  the idea of TrajViT: tokens of trajectories that somebody else has found
    towers.py              any of them, or TrajViT2's own, in a TrajViT2Model
"""

from .towers import RIVALS, build_rival

__all__ = ["RIVALS", "build_rival"]
