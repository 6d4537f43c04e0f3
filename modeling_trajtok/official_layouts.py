"""What the original calls its weights, and what we call them: one table for each kind of file.

To:   convert_official_checkpoint
"""

from typing import NamedTuple

from transformers import PreTrainedModel

from .modeling_trajtok import TrajTokModel, TrajTokSegmenterModel
from .modeling_trajvit2 import TrajViT2Model
from .modeling_trajvlm import TrajVLMGrouping

# The original's name -> ours, within one room. `{i}`, `{j}` stand for numbers, `{p}` for weight or
# bias, `{rest}` for any name.
PERCEIVER = {
    "norm_ctx.{p}": "context_norm.{p}",
    "norm_lat.{p}": "latent_norm.{p}",
    "layers.{i}.0.norm_media.{p}": "layers.{i}.attention.context_norm.{p}",
    "layers.{i}.0.norm_latents.{p}": "layers.{i}.attention.latent_norm.{p}",
    "layers.{i}.0.to_q.weight": "layers.{i}.attention.q_proj.weight",
    "layers.{i}.0.to_out.weight": "layers.{i}.attention.out_proj.weight",
    "layers.{i}.1.norm.{p}": "layers.{i}.mlp.norm.{p}",
    "layers.{i}.1.gate.{p}": "layers.{i}.mlp.gate_proj.{p}",
    "layers.{i}.1.up.{p}": "layers.{i}.mlp.up_proj.{p}",
    "layers.{i}.1.down.{p}": "layers.{i}.mlp.down_proj.{p}",
}
BACKBONE = {
    "downsample_layers.{i}.{j}.{p}": "stages.{i}.downsample_layers.{j}.{p}",
    "stages.{i}.{j}.dwconv.{p}": "stages.{i}.layers.{j}.depthwise_conv.{p}",
    "stages.{i}.{j}.norm.{p}": "stages.{i}.layers.{j}.layer_norm.{p}",
    "stages.{i}.{j}.pwconv1.{p}": "stages.{i}.layers.{j}.pointwise_conv1.{p}",
    "stages.{i}.{j}.pwconv2.{p}": "stages.{i}.layers.{j}.pointwise_conv2.{p}",
    "stages.{i}.{j}.gamma": "stages.{i}.layers.{j}.gamma",
    "norm.{p}": "layer_norm.{p}",
}


def below(table: dict[str, str], theirs: str, ours: str) -> dict[str, str]:
    """A table for the same room at another address."""
    return {f"{theirs}.{source}": f"{ours}.{target}" for source, target in table.items()}


SEGMENTER = {
    **below(BACKBONE, "patch_encoder.backbone", "patch_encoder.backbone"),
    "patch_encoder.proj.{i}.{p}": "patch_encoder.projections.{i}.{p}",
    "patch_encoder.ln.{p}": "patch_encoder.norm.{p}",
    "trajectory_perceiver.latents": "latents.weight",
    **below(PERCEIVER, "trajectory_perceiver", "perceiver"),
    "patch_decoder_low_res.{i}.{p}": "patch_head.{i}.{p}",
    "traj_seg_head_low_res.{i}.{p}": "trajectory_head.{i}.{p}",
    "patch_decoder_high_res.conv_up.{i}.{p}": "high_res_patch_head.upsample.{i}.{p}",
    "traj_seg_head_high_res.{i}.{p}": "high_res_trajectory_head.{i}.{p}",
    "log_scale": "assignment.log_scale",
}
ENCODER = {
    "latents": "encoder.latents",
    **below(PERCEIVER, "traj_feature_updater", "encoder.perceiver"),
    "output_projector.{p}": "encoder.output_proj.{p}",
}
TOKENIZER = {**below(SEGMENTER, "segmenter", "segmenter"), **ENCODER}

# Weights in the released segmenter file that no segmenter reads, and why.
UNUSED_IN_SEGMENTER = {
    r"text_encoder\..*": "text tower of the pretraining code, never trained with the segmenter",
    r"(text_proj|vision_proj|itm_head)\..*": "head of the pretraining code",
    r"temp": "contrastive temperature of the pretraining code",
}


# The transformer over trajectory tokens was the encoder of a Transformers ViT, the text tower a BERT.
TRAJVIT2 = {
    **below(TOKENIZER, "vision_encoder.traj_tokenizer", "video_model.trajtok"),
    "vision_encoder.vision_encoder.cls_token": "video_model.transformer.embeddings.cls_token",
    **below(
        {
            "attention.attention.query.{p}": "self_attn.q_proj.{p}",
            "attention.attention.key.{p}": "self_attn.k_proj.{p}",
            "attention.attention.value.{p}": "self_attn.v_proj.{p}",
            "attention.output.dense.{p}": "self_attn.out_proj.{p}",
            "intermediate.dense.{p}": "mlp.fc1.{p}",
            "output.dense.{p}": "mlp.fc2.{p}",
            "layernorm_before.{p}": "layer_norm1.{p}",
            "layernorm_after.{p}": "layer_norm2.{p}",
        },
        "vision_encoder.vision_encoder.vit.encoder.layer.{i}",
        "video_model.transformer.layers.{i}",
    ),
    "vision_encoder.norm.{p}": "video_model.transformer.norm.{p}",
    "vision_proj.{p}": "video_projection.{p}",
    "text_encoder.embeddings.{rest}": "text_model.encoder.embeddings.{rest}",
    "text_encoder.encoder.layer.{i}.{rest}": "text_model.encoder.encoder.layer.{i}.{rest}",
    "text_proj.{p}": "text_projection.{p}",
    "temp": "temperature",
}
UNUSED_IN_TRAJVIT2 = {
    r"vision_encoder\.vision_encoder\.vit\.(embeddings|layernorm|pooler)\..*": "part of the ViT that is never called",
    r"text_encoder\.embeddings\.position_ids": "counts from 0, computed by the model",
    r"text_encoder\.pooler\..*": "pooler of the text tower, never called",
    r"itm_head\..*": "head of the pretraining code",
}


# The part of TrajVLM that the original added to a SigLIP2 and a language model.
TRAJVLM = {
    **below(SEGMENTER, "segmenter", "segmenter.segmenter"),
    **below(PERCEIVER, "cross_attn", "connector.perceiver"),
    "query_proj.{p}": "connector.query_proj.{p}",
    "image_projector.w_gate.weight": "connector.projector.gate_proj.weight",
    "image_projector.w1.weight": "connector.projector.up_proj.weight",
    "image_projector.w2.weight": "connector.projector.down_proj.weight",
}


class Layout(NamedTuple):
    """One kind of file: how it is recognised, what it is called inside, and which model it becomes.

    Attributes:
        name: for messages.
        marker: a key that only such files hold.
        table: the original's names and ours.
        model_class: what it becomes.
        unused: patterns of keys that are left out, and why.
        segmenter: where the original keeps the segmenter.
        encoder: where it keeps the trajectory encoder; None if there is none.
        trajtok: where we keep the `TrajTokModel` or `TrajTokSegmenterModel`.
    """

    name: str
    marker: str
    table: dict[str, str]
    model_class: type[PreTrainedModel]
    unused: dict[str, str]
    segmenter: str
    encoder: str | None
    trajtok: str = ""


TRAJVIT2_LAYOUT = Layout(
    "TrajViT2",
    "vision_encoder.traj_tokenizer.traj_feature_updater.norm_ctx.weight",
    TRAJVIT2,
    TrajViT2Model,
    UNUSED_IN_TRAJVIT2,
    "vision_encoder.traj_tokenizer.segmenter.",
    "vision_encoder.traj_tokenizer.",
    "video_model.trajtok.",
)
TRAJVLM_LAYOUT = Layout(
    "TrajVLM grouping", "cross_attn.norm_ctx.weight", TRAJVLM, TrajVLMGrouping, {}, "segmenter.", None, "segmenter."
)
TOKENIZER_LAYOUT = Layout(
    "tokenizer", "traj_feature_updater.norm_ctx.weight", TOKENIZER, TrajTokModel, {}, "segmenter.", ""
)
RELEASED_SEGMENTER_LAYOUT = Layout(
    "released segmenter",
    "vision_encoder.trajectory_perceiver.latents",
    below(SEGMENTER, "vision_encoder", "segmenter"),
    TrajTokSegmenterModel,
    UNUSED_IN_SEGMENTER,
    "vision_encoder.",
    None,
)
SEGMENTER_LAYOUT = Layout(
    "segmenter",
    "trajectory_perceiver.latents",
    {source: f"segmenter.{target}" for source, target in SEGMENTER.items()},
    TrajTokSegmenterModel,
    UNUSED_IN_SEGMENTER,
    "",
    None,
)
LAYOUTS = (TRAJVIT2_LAYOUT, TRAJVLM_LAYOUT, TOKENIZER_LAYOUT, RELEASED_SEGMENTER_LAYOUT, SEGMENTER_LAYOUT)
