"""Outputs: the contract between a model and its users, one named type.

B clips, T frames, H and W patch rows and columns, N = T*H*W patches (t slowest, w fastest), K trajectories,
L tokens per trajectory, D width.
"""

from dataclasses import dataclass

from torch import BoolTensor, FloatTensor, LongTensor
from transformers.utils import ModelOutput


@dataclass
class TrajTokOutput(ModelOutput):
    """Output of `TrajTokModel` and `TrajTokSegmenterModel`; what was not computed is None.

    Attributes:
        loss: scalar, when ``trajectory_labels`` were given.
        trajectory_embeds: (B, K*L, D) trajectory tokens; the L tokens of a trajectory stand together. None from
            `TrajTokSegmenterModel`.
        token_valid: (B, K*L), True where the token's trajectory owns at least one patch. None from
            `TrajTokSegmenterModel`.
        trajectory_ids: (B, T, H, W) trajectory of each patch in 0 ... K-1, -1 in padded frames.
        assignment_logits: (B, N, K) fp32, unnormalised; softmax over K is the soft assignment. None when
            ``trajectory_ids`` were given, and from `TrajTokModel.tokenize_long_video`.
        assignment_logits_high_res: (B, N*f*f, K) fp32 on the (T, H*f, W*f) grid, when ``output_high_res=True``.
        patch_features: (B, N, D) what the segmenter compares. None from `TrajTokModel.tokenize_long_video`.
        trajectory_queries: (B, K, D) what the patches are compared with. None when ``trajectory_ids`` were given.
        pixel_loss: scalar, the focal or cross-entropy part of ``loss``, before its weight.
        dice_loss: scalar, the Dice part of ``loss``, before its weight.
    """

    loss: FloatTensor | None = None
    trajectory_embeds: FloatTensor | None = None
    token_valid: BoolTensor | None = None
    trajectory_ids: LongTensor | None = None
    assignment_logits: FloatTensor | None = None
    assignment_logits_high_res: FloatTensor | None = None
    patch_features: FloatTensor | None = None
    trajectory_queries: FloatTensor | None = None
    pixel_loss: FloatTensor | None = None
    dice_loss: FloatTensor | None = None
