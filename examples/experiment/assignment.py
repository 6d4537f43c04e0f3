"""Soft and hard assignment of patches to trajectories.

TrajTok's encoder mixes both: its queries start from soft means, and each patch is read by one trajectory.

In:   a TrajTokModel
Out:  the same model, whose queries start and read all soft or all hard; validity, path and silhouette of tokens come
      from the hard assignment in any case
To:   systems (variations of TrajViT2)
"""

import torch
from torch import Tensor, nn

from modeling_trajtok import TrajTokModel
from modeling_trajtok.perceiver_trajtok import Membership, PatchBlocks, TrajTokAttention


class SoftReading(TrajTokAttention):
    """`TrajTokAttention` with softmax(scores + log p), where p is the probability that a patch is the trajectory's.

    p is 1 for the last two patches, which every trajectory reads (see `read_last_patches`).

    Probabilities of 0 and 1 give what `TrajTokAttention` gives. Memory is that of all (K*L, N) scores of a clip.

    Attributes:
        log_probs: (B, N, K) of the clips at hand; the encoder leaves them here while it runs.
    """

    log_probs: Tensor | None = None

    def forward(self, latents: Tensor, blocks: PatchBlocks, membership: Membership) -> tuple[Tensor, Tensor | None]:
        """Latents (B, K*L, D) -> what they read, (B, K*L, D), and the weights, as `TrajTokAttention` gives them."""
        if self.reads_latents:
            latents = self.latent_norm(latents)
        output, weights = self._attend_at_once(latents, blocks, membership)
        return self.out_proj(output), weights

    def _key_mask(self, latents: Tensor, keys: Tensor, blocks: PatchBlocks, membership: Membership) -> Tensor:
        lowest = torch.finfo(keys.dtype).min
        tokens = latents.shape[1] // membership.num_trajectories
        patches = self.log_probs.transpose(1, 2).repeat_interleave(tokens, dim=1)  # (B, K*L, N)
        if blocks.valid is not None:
            patches = patches.masked_fill(~blocks.valid.unsqueeze(1), lowest)
        anchors = membership.anchor_index.unsqueeze(1).expand(-1, patches.shape[1], -1)
        patches = patches.clamp(min=lowest).scatter(2, anchors, 0.0)
        may_read = super()._key_mask(latents, keys, blocks, membership)  # (B, 1, K*L, latents and N)
        may_read = may_read[..., : may_read.shape[3] - patches.shape[2]]
        own_latents = torch.zeros_like(may_read, dtype=patches.dtype).masked_fill(~may_read, lowest)
        return torch.cat((own_latents, patches.unsqueeze(1)), dim=3).to(keys.dtype)


def assign_softly(model: TrajTokModel) -> None:
    """Give a model's encoder `SoftReading`, with the weights that it has: all trajectories read all patches."""
    config, encoder = model.config, model.encoder
    for layer in encoder.perceiver.layers:
        soft = SoftReading(
            config,
            width=config.encoder_input_size,
            num_heads=config.num_attention_heads,
            positions=config.encoder_positions,
            theta=config.rotary_theta,
        )
        soft.load_state_dict(layer.attention.state_dict())
        layer.attention = soft.to(encoder.output_proj.weight)

    def remember(module: nn.Module, inputs: tuple) -> None:
        log_probs = inputs[2].whole().float().log_softmax(dim=-1)
        for layer in module.perceiver.layers:
            layer.attention.log_probs = log_probs

    def forget(module: nn.Module, *_: object) -> None:
        for layer in module.perceiver.layers:
            layer.attention.log_probs = None

    encoder.register_forward_pre_hook(remember)
    encoder.register_forward_hook(forget)


def assign_hard(model: TrajTokModel) -> None:
    """Start a model's queries from the means over each trajectory's own patches: nothing is soft then."""

    def forget_logits(_: nn.Module, inputs: tuple) -> tuple:
        return (*inputs[:2], None, *inputs[3:])

    model.encoder.register_forward_pre_hook(forget_logits)
