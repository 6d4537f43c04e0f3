"""What asks for a gradient and cannot get one is told, once, with the reason.

In:   a model in training, and which of its losses a call has
Out:  a warning that names the parts
To:   modeling_trajvit2, modeling_trajadapter, modeling_trajvlm
"""

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


def warn_of_missing_gradients(owner: str, parts: dict[str, nn.Module | None], reason: str) -> None:
    """Name the parts that ask for a gradient, such as adapters of PEFT in them do, although none can reach them.

    Args:
        owner: the model's name.
        parts: what no gradient reaches in this call, by name; None stands for a part that the model does not have.
        reason: why, and what to do; a sentence.
    """
    asking = [
        name
        for name, part in parts.items()
        if part is not None and any(parameter.requires_grad for parameter in part.parameters())
    ]
    if asking:
        logger.warning_once(f"{owner} gives no gradient to parameters of {', '.join(asking)}: {reason}")


def check_gradients_of_segmenter(
    owner: str, trajtok: nn.Module, *, masks: bool, high_res: bool, ids: bool, own_features: bool
) -> None:
    """Warn of parts of a TrajTok that the loss of a task does not train; nothing is checked outside of training.

    Args:
        owner: the model's name.
        trajtok: a `TrajTokModel` whose tokens a task reads.
        masks: whether the call has a segmentation loss.
        high_res: whether that is also one of the masks of high resolution.
        ids: whether the call was given its trajectories, so that nothing is segmented.
        own_features: whether the tokens are made of the segmenter's patch features, not of another backbone's.
    """
    if not (trajtok.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return
    segmenter, config = trajtok.segmenter, trajtok.config
    soft = config.encoder_queries != "latents" and not config.detach_segmentation and not ids
    names = ["high_res_patch_head", "high_res_trajectory_head"] if not (masks and high_res) else []
    if not masks and not soft:
        names += ["latents", "perceiver", "patch_head", "trajectory_head", "assignment"]
        if config.detach_segmentation or not own_features:
            names.append("patch_encoder")
    warn_of_missing_gradients(
        owner,
        {f"trajtok.segmenter.{name}": getattr(segmenter, name, None) for name in names},
        "which trajectory a patch belongs to is decided by an argmax, through which no gradient comes. Train them "
        "with target_trajectory_ids (heads of high resolution also with output_high_res=True) or, but for those "
        "heads, with encoder_queries='latents_and_mean' and detach_segmentation=False in trajtok_config. Otherwise "
        "freeze them, or leave them out of the adapters with exclude_modules.",
    )


__all__ = ["check_gradients_of_segmenter", "warn_of_missing_gradients"]
