"""TrajViT2: video CLIP on trajectory tokens.

In:   pixel_values_videos (B, T, 3, H_px, W_px), or what `TrajTokModel` accepts or gave; input_ids (N, S)
Out:  `TrajViT2Output`: every video compared with every text; each side is usable alone
From: modeling_trajtok, processors     To: retrieval, zero-shot and fine-tuned classification
Paper: arXiv 2602.22779     Official: trajvit.py (``SimpleTrajViTV2``), vindlu.py (``SegmentCLIP``)
"""

from contextlib import ExitStack
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipEncoderLayer
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .auto_classes import FamilyAutoClasses
from .configuration_trajvit2 import TrajViT2Config, TrajViT2TransformerConfig
from .gradient_paths import check_gradients_of_segmenter, warn_of_missing_gradients
from .input_checks import check_pixel_names, check_targets, check_task_keywords
from .losses_trajvit2 import contrastive_loss
from .modeling_trajtok import TrajTokModel
from .outputs_trajtok import TrajViT2ClassifierOutput, TrajViT2Output, TrajViT2VideoOutput
from .perceiver_trajtok import checkpoint_input
from .zero_shot_video_classification import ZeroShotVideoClassificationPipeline


class TrajViT2Embeddings(nn.Module):
    """A learnt CLS token in front of the trajectory tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))

    def forward(self, trajectory_embeds: Tensor) -> Tensor:
        """(B, K*L, D) -> (B, 1 + K*L, D)."""
        cls_token = self.cls_token.expand(trajectory_embeds.shape[0], -1, -1)
        return torch.cat((cls_token.to(trajectory_embeds.dtype), trajectory_embeds), dim=1)


class TrajViT2PreTrainedModel(FamilyAutoClasses, PreTrainedModel):
    """Weights and initialisation that the TrajViT2 models share; each reads its part of a full checkpoint."""

    config: TrajViT2Config
    config_class = TrajViT2Config
    auto_classes = {  # noqa: RUF012
        "AutoModel": ("TrajViT2Model", "TrajViT2VideoModel"),
        "AutoModelForVideoClassification": ("TrajViT2ForVideoClassification",),
    }
    base_model_prefix = ""
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ("DINOv3ConvNextLayer", "TrajTokPerceiverLayer", "SiglipEncoderLayer", "TrajViT2Embeddings")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TrajViT2Embeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
        elif isinstance(module, TrajViT2Model):
            init.constant_(module.temperature, self.config.initial_temperature)

    def _wanted_records(self, output_hidden_states: bool | None, output_attentions: bool | None) -> dict[str, bool]:
        """What a call, or else the configuration, asks to be recorded of the layers."""
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return {name: getattr(self.config, name, False) if value is None else value for name, value in asked.items()}

    def _total_loss(self, task_loss: Tensor, segmentation_loss: Tensor | None) -> Tensor:
        """The loss of the task, plus the weighted one of the segmentation where there is one."""
        if segmentation_loss is None:
            return task_loss
        return task_loss + self.config.segmentation_loss_weight * segmentation_loss


class TrajViT2Transformer(TrajViT2PreTrainedModel):
    """The transformer over CLS and trajectory tokens.

    Its layers are SigLIP's, which are pre-norm like ViT's and read a mask. Trajectories have no order, so there are no
    position embeddings.
    """

    config: TrajViT2TransformerConfig
    config_class = TrajViT2TransformerConfig
    main_input_name = "trajectory_embeds"
    input_modalities = ("video",)
    _can_record_outputs: ClassVar = {"hidden_states": SiglipEncoderLayer, "attentions": SiglipAttention}

    def __init__(self, config: TrajViT2TransformerConfig):
        super().__init__(config)
        self.embeddings = TrajViT2Embeddings(config.hidden_size)
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, trajectory_embeds: Tensor, token_valid: Tensor, **kwargs) -> BaseModelOutput:
        """Tokens (B, K*L, D) and which of them are real (B, K*L) -> normed states (B, 1 + K*L, D).

        With ``output_hidden_states=True`` also what each layer reads and gives, with ``output_attentions=True`` the
        attention weights.
        """
        states, mask = self.embeddings(trajectory_embeds), None
        if self.config.mask_empty_trajectories:
            readable = F.pad(token_valid.bool(), (1, 0), value=True)
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=readable)
        for layer in self.layers:
            if layer.gradient_checkpointing and self.training:
                states = checkpoint_input(layer, states)
            states = layer(states, mask)
        return BaseModelOutput(last_hidden_state=self.norm(states))


class TrajViT2VideoTower(TrajViT2PreTrainedModel):
    """Tokenizer and transformer: clips, or trajectory tokens made before, to states and a pooled state."""

    input_modalities = ("video",)

    def __init__(self, config: TrajViT2Config):
        super().__init__(config)
        self.trajtok = TrajTokModel(config.trajtok_config)
        self.transformer = TrajViT2Transformer(config.transformer_config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **trajtok_inputs,
    ) -> TrajViT2VideoOutput:
        """Inputs as in `TrajViT2VideoModel.forward`."""
        tokenized, trajectory_ids = None, trajtok_inputs.get("trajectory_ids")
        if trajectory_embeds is None:
            tokenized = self.trajtok(pixel_values_videos, frame_valid, return_dict=True, **trajtok_inputs)
            check_gradients_of_segmenter(
                "TrajViT2",
                self.trajtok,
                masks=tokenized.loss is not None,
                high_res=tokenized.assignment_logits_high_res is not None,
                ids=trajectory_ids is not None,
                own_features=trajtok_inputs.get("patch_features") is None,
            )
            trajectory_embeds, token_valid = tokenized.trajectory_embeds, tokenized.token_valid
            trajectory_ids = tokenized.trajectory_ids
        else:
            self._check_tokens(trajectory_embeds, token_valid, pixel_values_videos)
            if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                warn_of_missing_gradients(
                    "TrajViT2",
                    {"trajtok": self.trajtok},
                    "trajectory_embeds were made before. Freeze it, or pass pixels.",
                )
            trajectory_embeds = trajectory_embeds.to(self.transformer.norm.weight.dtype)
            if token_valid is None:
                token_valid = trajectory_embeds.new_ones(trajectory_embeds.shape[:2], dtype=torch.bool)
        wanted = self._wanted_records(output_hidden_states, output_attentions)
        encoded = self.transformer(trajectory_embeds, token_valid, return_dict=True, **wanted)
        return TrajViT2VideoOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=encoded.last_hidden_state[:, 0],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            token_valid=token_valid,
            trajectory_ids=trajectory_ids,
            trajtok_output=tokenized,
        )

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that pixels pass through."""
        return self.trajtok.segmenter.patch_encoder.backbone.stages[0].downsample_layers[0]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that layer."""
        self.trajtok.segmenter.patch_encoder.backbone.stages[0].downsample_layers[0] = value

    def _check_tokens(self, trajectory_embeds: Tensor, token_valid: Tensor | None, pixels: Tensor | None) -> None:
        width = self.transformer.config.hidden_size
        if pixels is not None:
            raise ValueError("TrajViT2 got pixel_values_videos and trajectory_embeds, expected one of them.")
        if trajectory_embeds.dim() != 3 or trajectory_embeds.shape[2] != width:
            raise ValueError(
                f"TrajViT2 got trajectory_embeds of shape {tuple(trajectory_embeds.shape)}, expected"
                f" (B, K*L, {width}). "
                "Make them with the TrajTok inside this checkpoint (`model.video_model.trajtok`)."
            )
        if token_valid is not None and tuple(token_valid.shape) != tuple(trajectory_embeds.shape[:2]):
            raise ValueError(
                f"TrajViT2 got token_valid of shape {tuple(token_valid.shape)}, expected "
                f"{tuple(trajectory_embeds.shape[:2])} for trajectory_embeds of {tuple(trajectory_embeds.shape)}."
            )


def segmentation_loss_of(videos: TrajViT2VideoOutput) -> Tensor | None:
    """The loss of the tokenizer; None without labels, or for tokens that were made before."""
    return None if videos.trajtok_output is None else videos.trajtok_output.loss


class TrajViT2TextTower(TrajViT2PreTrainedModel):
    """A Transformers text encoder and the choice of one state per text: input_ids (N, S) -> (N, D_text)."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: TrajViT2Config):
        super().__init__(config)
        text_config, pooling = config.text_config, config.text_pooling
        self.pooling = pooling
        auto_class = AutoModelForTextEncoding if text_config.is_encoder_decoder else AutoModel
        self.encoder = auto_class.from_config(text_config)
        if pooling != "pooler" and getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # weights that nothing reads
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of tokens."""
        self.encoder.set_input_embeddings(value)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs):
        """Texts (N, S) -> the encoder's output, its ``pooler_output`` being (N, D_text)."""
        limit = getattr(self.encoder.config, "max_position_embeddings", None)
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(
                f"TrajViT2 got texts of {input_ids.shape[1]} tokens, expected at most {limit}. Pass truncation=True "
                "to the processor."
            )
        with ExitStack() as hooks:
            if self.training and self.encoder.is_gradient_checkpointing:
                hook = self.get_input_embeddings().register_forward_hook(
                    lambda module, args, states: checkpoint_input(self.encoder, states)
                )
                hooks.callback(hook.remove)
            output = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True}
            )
        states = output.last_hidden_state
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.pooling == "cls":
            output.pooler_output = states[:, 0]
        elif self.pooling == "mean":
            weights = valid.unsqueeze(2).to(states.dtype)
            output.pooler_output = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        elif self.pooling == "last":
            last = (valid * torch.arange(1, valid.shape[1] + 1, device=valid.device)).argmax(dim=1)
            output.pooler_output = states[torch.arange(states.shape[0], device=states.device), last]
        return output


class TrajViT2VideoModel(TrajViT2PreTrainedModel):
    """The video tower alone."""

    input_modalities = ("video",)
    _keys_to_ignore_on_load_unexpected = (r"^text_model\.", r"^(video|text)_projection\.", r"^temperature$")

    def __init__(self, config: TrajViT2Config):
        super().__init__(config)
        self.video_model = TrajViT2VideoTower(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that pixels pass through."""
        return self.video_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that layer."""
        self.video_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **trajtok_inputs,
    ) -> TrajViT2VideoOutput:
        """Encode clips.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames.
            trajectory_embeds: (B, K*L, D) tokens that a TrajTok made before, instead of pixels.
            token_valid: (B, K*L) of ``trajectory_embeds``.
            output_hidden_states: also return what each layer of the transformer reads and gives.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **trajtok_inputs: what else `TrajTokModel.forward` takes (``trajectory_ids``, ``patch_features``, ...).

        Returns:
            `TrajViT2VideoOutput`.

        Raises:
            ValueError: for missing or contradicting inputs, or inputs of the wrong shape, type or range.
        """
        return self.video_model(
            pixel_values_videos,
            frame_valid,
            trajectory_embeds,
            token_valid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **trajtok_inputs,
        )


class TrajViT2Model(TrajViT2PreTrainedModel):
    """Video tower and text tower, each projected to one space.

    `Trainer` trains and evaluates it on batches with ``return_loss=True``, which the data collator adds. The videos
    and texts of a batch are each other's negatives: several processes compare with those of all, but small batches
    whose gradients are accumulated only with their own, and a batch of one pair teaches nothing.
    """

    # What the task runs; named here so that its code is saved beside the model's.
    zero_shot_pipeline_class = ZeroShotVideoClassificationPipeline

    def __init__(self, config: TrajViT2Config):
        super().__init__(config)
        self.video_model = TrajViT2VideoTower(config)
        self.text_model = TrajViT2TextTower(config)
        self.video_projection = nn.Linear(config.transformer_config.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim)
        self.temperature = nn.Parameter(torch.empty(1))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of the text tower's tokens."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the text tower's tokens."""
        self.text_model.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Transformers, for the text tower's tokens."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.text_model.encoder.config.get_text_config().vocab_size = self.config.text_config.vocab_size
        return embeddings

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        output_trajectory_features: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **trajtok_inputs,
    ) -> TrajViT2VideoOutput:
        """Embed clips in the space of texts, to be indexed or compared.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB; an image is a clip of one frame.
            frame_valid: (B, T), False for padded frames.
            trajectory_embeds: (B, K*L, D) tokens that a TrajTok made before, instead of pixels.
            token_valid: (B, K*L) of ``trajectory_embeds``.
            output_trajectory_features: also embed every trajectory in the space of texts.
            output_hidden_states: also return what each layer of the transformer reads and gives.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **trajtok_inputs: what else `TrajTokModel.forward` takes.

        Returns:
            `TrajViT2VideoOutput` whose ``pooler_output`` (B, E) has length 1.
        """
        output = self.video_model(
            pixel_values_videos,
            frame_valid,
            trajectory_embeds,
            token_valid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **trajtok_inputs,
        )
        output.pooler_output = F.normalize(self.video_projection(output.pooler_output), dim=-1)
        if output_trajectory_features:
            trajectories = self.video_projection(output.last_hidden_state[:, 1:])
            output.trajectory_features = F.normalize(trajectories, dim=-1)
        return output

    @can_return_tuple
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs):
        """Embed texts (N, S) in the space of videos.

        Returns:
            The text encoder's output, whose ``pooler_output`` (N, E) has length 1.
        """
        output = self.text_model(input_ids, attention_mask, **kwargs)
        output.pooler_output = F.normalize(self.text_projection(output.pooler_output), dim=-1)
        return output

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        target_trajectory_ids: Tensor | None = None,
        idx: Tensor | None = None,
        text_idx: Tensor | None = None,
        return_loss: bool | None = None,
        output_trajectory_features: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **trajtok_inputs,
    ) -> TrajViT2Output:
        """Compare every video with every text.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            input_ids: (N, S) texts.
            attention_mask: (N, S), 0 for padding.
            token_type_ids: (N, S), for text towers that have them.
            frame_valid: (B, T), False for padded frames.
            trajectory_embeds: (B, K*L, D) tokens that a TrajTok made before, instead of pixels.
            token_valid: (B, K*L) of ``trajectory_embeds``.
            target_trajectory_ids: (B, T, h, w) at any resolution, 0 ... K-1, -1 = ignore: what the segmenter should
                find, which adds the segmentation loss. `TrajTokModel` calls them ``trajectory_labels``, and so may
                callers; but `Trainer` takes arguments of such names for what evaluation cannot do without.
            idx: (B,) numbers of what the videos show; videos and texts of the same number match. Default: all differ.
            text_idx: (N,) the same for the texts, -1 = matches no video. Default: text i belongs to video i; texts
                beyond B match no video.
            return_loss: add the losses. In training the videos and texts of all processes are compared.
            output_trajectory_features: also embed every trajectory in the space of texts.
            output_hidden_states: also return what each layer of the transformer reads and gives.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **trajtok_inputs: what else `TrajTokModel.forward` takes.

        Returns:
            `TrajViT2Output`.

        Raises:
            ValueError: for missing or contradicting inputs, or inputs of the wrong shape, type or range.
        """
        check_task_keywords(self, TrajTokModel, trajtok_inputs)
        if input_ids is None:
            raise ValueError(
                "TrajViT2Model got no input_ids, expected videos and texts. Use get_video_features alone."
            )
        videos = self.get_video_features(
            pixel_values_videos,
            frame_valid,
            trajectory_embeds,
            token_valid,
            output_trajectory_features=output_trajectory_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **check_targets(type(self).__name__, target_trajectory_ids, trajtok_inputs),
        )
        text_inputs = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        text_inputs |= {
            name: wanted
            for name, wanted in self._wanted_records(output_hidden_states, output_attentions).items()
            if wanted
        }
        texts = self.get_text_features(input_ids, attention_mask, return_dict=True, **text_inputs)
        video_embeds, text_embeds = videos.pooler_output, texts.pooler_output
        temperature = self._clamped_temperature()
        logits_per_video = video_embeds @ text_embeds.t() / temperature
        losses = {}
        if return_loss:
            self._check_pairs(video_embeds.shape[0], text_embeds.shape[0], idx, text_idx)
            losses["contrastive_loss"] = contrastive_loss(
                video_embeds, text_embeds, temperature, idx, text_idx, over_processes=self.training
            )
            losses["segmentation_loss"] = segmentation_loss_of(videos)
            losses["loss"] = self._total_loss(losses["contrastive_loss"], losses["segmentation_loss"])
        return TrajViT2Output(
            logits_per_video=logits_per_video,
            logits_per_text=logits_per_video.t(),
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            video_model_output=videos,
            text_model_output=texts,
            **losses,
        )

    def _clamped_temperature(self) -> Tensor:
        bounds = self.config.min_temperature, self.config.max_temperature
        if not self.training or torch.compiler.is_compiling():
            return self.temperature.clamp(*bounds)
        # The parameter itself is clamped, so that at a bound it keeps a gradient by which it can leave it.
        with torch.no_grad():
            self.temperature.clamp_(*bounds)
        return self.temperature

    def _check_pairs(self, batch: int, num_texts: int, idx: Tensor | None, text_idx: Tensor | None) -> None:
        if text_idx is None and num_texts < batch:
            raise ValueError(
                f"TrajViT2Model got {batch} videos and {num_texts} texts with return_loss=True, expected a text for "
                "each video (further texts are negatives), or text_idx."
            )
        for name, numbers, expected in (("idx", idx, batch), ("text_idx", text_idx, num_texts)):
            if numbers is not None and tuple(numbers.shape) != (expected,):
                raise ValueError(f"TrajViT2Model got {name} of shape {tuple(numbers.shape)}, expected ({expected},).")
        if idx is None and text_idx is not None:
            raise ValueError("TrajViT2Model got text_idx without idx, expected both: they are compared.")


class TrajViT2ForVideoClassification(TrajViT2PreTrainedModel):
    """The video tower with a linear classifier on its pooled state."""

    input_modalities = ("video",)
    _keys_to_ignore_on_load_unexpected = TrajViT2VideoModel._keys_to_ignore_on_load_unexpected

    def __init__(self, config: TrajViT2Config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.video_model = TrajViT2VideoTower(config)
        self.classifier = nn.Linear(config.transformer_config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that pixels pass through."""
        return self.video_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that layer."""
        self.video_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        target_trajectory_ids: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **trajtok_inputs,
    ) -> TrajViT2ClassifierOutput:
        """Classify clips.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames.
            trajectory_embeds: (B, K*L, D) tokens that a TrajTok made before, instead of pixels.
            token_valid: (B, K*L) of ``trajectory_embeds``.
            target_trajectory_ids: (B, T, h, w) at any resolution, 0 ... K-1, -1 = ignore: what the segmenter should
                find, which adds the segmentation loss. `TrajTokModel` calls them ``trajectory_labels``, and so may
                callers; but `Trainer` takes arguments of such names for what evaluation cannot do without.
            labels: (B,) classes, (B, num_labels) for several at once, or (B,) numbers for regression, as
                ``config.problem_type`` says.
            pixel_values: what VideoMAE and code written for it call ``pixel_values_videos``.
            output_hidden_states: also return what each layer of the transformer reads and gives.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **trajtok_inputs: what else `TrajTokModel.forward` takes.

        Returns:
            `TrajViT2ClassifierOutput`.
        """
        pixel_values_videos = check_pixel_names(type(self).__name__, pixel_values_videos, pixel_values)
        check_task_keywords(self, TrajTokModel, trajtok_inputs)
        output = self.video_model(
            pixel_values_videos,
            frame_valid,
            trajectory_embeds,
            token_valid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **check_targets(type(self).__name__, target_trajectory_ids, trajtok_inputs),
        )
        logits = self.classifier(output.pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
            loss = self._total_loss(loss, segmentation_loss_of(output))
        return TrajViT2ClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            last_hidden_state=output.last_hidden_state,
            token_valid=output.token_valid,
            trajectory_ids=output.trajectory_ids,
        )


__all__ = ["TrajViT2ForVideoClassification", "TrajViT2Model", "TrajViT2PreTrainedModel", "TrajViT2VideoModel"]
