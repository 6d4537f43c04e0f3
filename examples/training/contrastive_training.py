"""One step of contrastive training: what is computed of a batch, as one module that can be wrapped and sharded.

In:   batches of `CaptionCollator`
Out:  losses and counts by name
From: caption_views     To: train_trajvit2.py
"""

import torch
import torch.nn.functional as F
from evaluation.object_matching import FOUND_IOU, trajectories_of_objects
from torch import Tensor, nn

from modeling_trajtok import TrajViT2Model
from modeling_trajtok.grid_ops import resize_ids
from modeling_trajtok.losses_trajvit2 import cross_entropy_of_matches


class ContrastiveTraining(nn.Module):
    """TrajViT2 with the loss of videos and captions, and that of trajectories and the texts that describe them."""

    def __init__(self, model: TrajViT2Model, trajectory_text_weight: float):
        super().__init__()
        self.model = model
        self.trajectory_text_weight = trajectory_text_weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        idx: Tensor,
        object_ids: Tensor,
        patch_features: Tensor | None = None,
        trajectory_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        trajectory_labels: Tensor | None = None,
        **named: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of a batch: "loss" is what is trained, the others are its parts.

        ``patch_features`` (B, T, H, W, D) take the place of pixels; with ``trajectory_ids`` nothing is segmented.
        """
        inputs = {"pixel_values_videos": pixel_values_videos, "trajectory_labels": trajectory_labels}
        if trajectory_ids is not None:
            inputs["trajectory_ids"] = trajectory_ids
        if patch_features is not None:
            grid = tuple(patch_features.shape[1:4])
            inputs |= {"patch_features": patch_features.flatten(1, 3), "patch_grid": grid}
        text_idx = F.pad(idx, (0, len(input_ids) - len(idx)), value=-1)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            idx=idx,
            text_idx=text_idx,
            return_loss=True,
            output_trajectory_features=bool(named),
            **inputs,
        )
        losses = {"loss": outputs.loss, "contrastive_loss": outputs.contrastive_loss}
        if outputs.segmentation_loss is not None:
            losses["segmentation_loss"] = outputs.segmentation_loss
        if named:
            losses["trajectory_text_loss"] = self._trajectory_text_loss(outputs, object_ids, **named)
            losses["loss"] = losses["loss"] + self.trajectory_text_weight * losses["trajectory_text_loss"]
        own = outputs.logits_per_video[:, : len(idx)].argmax(dim=1) == torch.arange(len(idx), device=idx.device)
        losses["accuracy"] = own.float().mean()
        return losses

    def _trajectory_text_loss(
        self,
        outputs,
        object_ids: Tensor,
        named_input_ids: Tensor,
        named_attention_mask: Tensor,
        named_clip: Tensor,
        named_id: Tensor,
        named_text: Tensor,
    ) -> Tensor:
        """Which trajectory of its clip does a text describe, and which of the batch's texts a trajectory?

        Of T texts the first M are true of an object; the others are false, and only compete for trajectories.
        """
        videos = outputs.video_model_output
        num_trajectories = self.model.config.trajtok_config.num_trajectories
        tokens = videos.trajectory_features.shape[1] // num_trajectories
        features = videos.trajectory_features[:, ::tokens]  # the first token of each trajectory
        valid = videos.token_valid[:, ::tokens]

        ids = videos.trajectory_ids
        objects = resize_ids(object_ids, tuple(ids.shape[-2:]))[named_clip] == named_id.view(-1, 1, 1, 1)
        best, iou = trajectories_of_objects(ids[named_clip].flatten(1), objects.flatten(1), num_trajectories)
        texts = self.model.get_text_features(named_input_ids, named_attention_mask, return_dict=True).pooler_output
        temperature = self.model.temperature.clamp(self.model.config.min_temperature)

        found = iou > FOUND_IOU
        within = torch.einsum("me,mke->mk", texts[: len(named_clip)], features[named_clip]) / temperature
        within = within.masked_fill(~valid[named_clip], torch.finfo(within.dtype).min)
        is_best = F.one_hot(best, num_trajectories).bool() & found.unsqueeze(1)
        of_texts = cross_entropy_of_matches(within.float(), is_best)
        own = features[named_clip, best]
        same_text = (named_text[: len(named_clip), None] == named_text) & found.unsqueeze(1)
        return (of_texts + cross_entropy_of_matches(own @ texts.t() / temperature, same_text)) / 2
