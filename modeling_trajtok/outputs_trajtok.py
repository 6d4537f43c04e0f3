"""Outputs: the contract between a model and its users, one named type.

B clips, T frames, H and W patch rows and columns, N = T*H*W patches (t slowest, w fastest), K trajectories,
L tokens per trajectory, D width.
"""

from dataclasses import dataclass

from torch import BoolTensor, FloatTensor, LongTensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ImageClassifierOutput,
)
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
        hidden_states: with ``output_hidden_states=True`` the normed queries and their states after each layer. From
            `TrajTokModel` of the encoder: 1 + num_encoder_layers times (B, K*L, D_in); from `TrajTokSegmenterModel` of
            the segmenter's perceiver: 1 + num_query_layers times (B, K, D).
        attentions: with ``output_attentions=True`` and "eager" attention the weights of the same layers over what
            they read, (B, heads, M, M + N) over ``[queries ; patches]`` with "sequence" positions, (B, heads, M, N)
            with "grid"; M is K*L or K. An empty tuple with other attention implementations, which compute no weights.
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
    hidden_states: tuple[FloatTensor, ...] | None = None
    attentions: tuple[FloatTensor, ...] | None = None


@dataclass
class TrajViT2VideoOutput(BaseModelOutputWithPooling):
    """Output of the video tower; what was not computed is None.

    Attributes:
        last_hidden_state: (B, 1 + K*L, D) normed states of CLS and of the trajectory tokens.
        pooler_output: (B, D) that of CLS; from `TrajViT2Model.get_video_features` (B, E), projected, of length 1.
        hidden_states: what the first layer of the transformer reads and what each layer gives, (B, 1 + K*L, D) each,
            when ``output_hidden_states=True``.
        attentions: attention weights of each layer, (B, heads, 1 + K*L, 1 + K*L) each, when
            ``output_attentions=True`` and the attention implementation tells them ("eager").
        trajectory_features: (B, K*L, E) trajectory tokens in the space of texts, of length 1, when
            ``output_trajectory_features=True``.
        token_valid: (B, K*L), True where the token's trajectory owns at least one patch.
        trajectory_ids: (B, T, H, W) trajectory of each patch, -1 in padded frames.
        trajtok_output: all that the tokenizer gave; None when ``trajectory_embeds`` were given.
    """

    trajectory_features: FloatTensor | None = None
    token_valid: BoolTensor | None = None
    trajectory_ids: LongTensor | None = None
    trajtok_output: TrajTokOutput | None = None


@dataclass
class TrajViT2Output(ModelOutput):
    """Output of `TrajViT2Model`; what was not computed is None.

    Attributes:
        loss: scalar, when ``return_loss=True`` (contrastive, plus segmentation where labels were given).
        logits_per_video: (B, N) cosine of every video with every text, over the temperature.
        logits_per_text: (N, B) its transpose.
        video_embeds: (B, E) of length 1.
        text_embeds: (N, E) of length 1.
        video_model_output: `TrajViT2VideoOutput`.
        text_model_output: what the text tower gave.
        contrastive_loss: scalar part of ``loss``.
        segmentation_loss: scalar part of ``loss``, before its weight.
    """

    loss: FloatTensor | None = None
    logits_per_video: FloatTensor | None = None
    logits_per_text: FloatTensor | None = None
    video_embeds: FloatTensor | None = None
    text_embeds: FloatTensor | None = None
    video_model_output: TrajViT2VideoOutput | None = None
    text_model_output: ModelOutput | None = None
    contrastive_loss: FloatTensor | None = None
    segmentation_loss: FloatTensor | None = None


@dataclass
class TrajViT2ClassifierOutput(ImageClassifierOutput):
    """Output of `TrajViT2ForVideoClassification`; what was not computed is None.

    Attributes:
        loss: scalar, when ``labels`` were given.
        logits: (B, num_labels).
        hidden_states: as in `TrajViT2VideoOutput`.
        attentions: as in `TrajViT2VideoOutput`.
        last_hidden_state: (B, 1 + K*L, D) normed states of CLS and of the trajectory tokens.
        token_valid: (B, K*L), True where the token's trajectory owns at least one patch.
        trajectory_ids: (B, T, H, W) trajectory of each patch, -1 in padded frames.
    """

    last_hidden_state: FloatTensor | None = None
    token_valid: BoolTensor | None = None
    trajectory_ids: LongTensor | None = None


@dataclass
class TrajAdapterOutput(BaseModelOutputWithPooling):
    """Output of `TrajAdapterModel`; what was not computed is None.

    Attributes:
        last_hidden_state: (B, K*L, D) trajectory tokens; of other probes the backbone's patch features (B, N, D).
        pooler_output: (B, D) what is classified.
        hidden_states: the states of the backbone in front of and after each of its layers, as it gives them: one row
            for each of its calls (a frame, or the frames that a video model reads at a time), when
            ``output_hidden_states=True``.
        attentions: its attention weights, in the same order, when ``output_attentions=True`` and its attention
            implementation tells them ("eager").
        token_valid: (B, K*L) or (B, N), False for trajectories without patches and for padded frames.
        trajectory_ids: (B, T, H, W) trajectory of each patch of the segmenter, -1 in padded frames.
        segmentation_loss: scalar, when ``trajectory_labels`` were given.
    """

    token_valid: BoolTensor | None = None
    trajectory_ids: LongTensor | None = None
    segmentation_loss: FloatTensor | None = None


@dataclass
class TrajAdapterClassifierOutput(ImageClassifierOutput):
    """Output of `TrajAdapterForVideoClassification`; what was not computed is None.

    Attributes:
        loss: scalar, when ``labels`` were given.
        logits: (B, num_labels).
        hidden_states: as in `TrajAdapterOutput`.
        attentions: as in `TrajAdapterOutput`.
        last_hidden_state: (B, K*L, D) trajectory tokens; of other probes the backbone's patch features (B, N, D).
        token_valid: (B, K*L) or (B, N), False for trajectories without patches and for padded frames.
        trajectory_ids: (B, T, H, W) trajectory of each patch of the segmenter, -1 in padded frames.
    """

    last_hidden_state: FloatTensor | None = None
    token_valid: BoolTensor | None = None
    trajectory_ids: LongTensor | None = None


@dataclass
class TrajVLMGroupingOutput(ModelOutput):
    """Output of `TrajVLMGrouping`.

    Attributes:
        last_hidden_state: (C, K, D_vision) pooled patches of each trajectory.
        trajectory_embeds: (C, K, d) the same, projected into the language model's space.
        num_patches: (C, K) patches of the vision tower that each trajectory owns.
        trajectory_ids: (C, T, H, W) trajectory of each patch on the segmenter's grid, -1 in padded frames.
        trajtok_output: all that the segmenter gave.
    """

    last_hidden_state: FloatTensor | None = None
    trajectory_embeds: FloatTensor | None = None
    num_patches: LongTensor | None = None
    trajectory_ids: LongTensor | None = None
    trajtok_output: TrajTokOutput | None = None


@dataclass
class TrajVLMFeatures(BaseModelOutputWithPooling):
    """Trajectory tokens of B images or videos, cut into C chunks in all; d is the language model's width.

    What the layers of the vision tower gave is there on request (``output_hidden_states``, ``output_attentions``): for
    each of the F frames of all chunks, the repeated last frames of a video included; of a TrajViT2 for each chunk.

    Attributes:
        last_hidden_state: (C, K, D_vision) pooled patches of each chunk's trajectories, in the order of the videos.
        pooler_output: B tensors (n_b, d): what the language model reads, chunk after chunk.
        hidden_states: of each layer (F, n, D_vision) for the n patches of a frame, or (C, 1 + K*L, D_vision).
        attentions: of each layer (F, heads, n, n), or (C, heads, 1 + K*L, 1 + K*L).
        token_chunks: B tensors (n_b,), the chunk of its video that a token stands for.
        token_trajectories: B tensors (n_b,), the trajectory in 0 ... K-1 of that chunk.
        trajectory_ids: B tensors (T_b, H, W) of valid frames: trajectory of each patch on the segmenter's grid.
    """

    pooler_output: list[FloatTensor] | None = None
    token_chunks: list[LongTensor] | None = None
    token_trajectories: list[LongTensor] | None = None
    trajectory_ids: list[LongTensor] | None = None


class EncodedMedia:
    """What the outputs of the TrajVLM models tell of the images and videos that they read."""

    image_outputs: TrajVLMFeatures | None
    video_outputs: TrajVLMFeatures | None

    @property
    def mm_encoder_outputs(self) -> dict[str, TrajVLMFeatures] | None:
        """The features under "image" and "video", as `forward` and `generate` take them; None if there are none."""
        encoded = {"image": self.image_outputs, "video": self.video_outputs}
        return {name: features for name, features in encoded.items() if features is not None} or None


@dataclass
class TrajVLMModelOutput(EncodedMedia, BaseModelOutputWithPast):
    """Output of `TrajVLMModel`; what was not computed is None.

    Attributes:
        last_hidden_state: (B, S, d) states of the language model.
        cache: its cache; ``past_key_values`` before Transformers 5.24.
        hidden_states: its states after each layer.
        attentions: its attention weights.
        image_outputs: `TrajVLMFeatures` of the images.
        video_outputs: `TrajVLMFeatures` of the videos.
    """

    image_outputs: TrajVLMFeatures | None = None
    video_outputs: TrajVLMFeatures | None = None


@dataclass
class TrajVLMOutput(EncodedMedia, CausalLMOutputWithPast):
    """Output of `TrajVLMForConditionalGeneration`; what was not computed is None.

    Attributes:
        loss: scalar, when ``labels`` were given.
        logits: (B, S, vocabulary).
        cache: cache of the language model; ``past_key_values`` before Transformers 5.24.
        hidden_states: its states after each layer.
        attentions: its attention weights.
        image_outputs: `TrajVLMFeatures` of the images.
        video_outputs: `TrajVLMFeatures` of the videos.
    """

    image_outputs: TrajVLMFeatures | None = None
    video_outputs: TrajVLMFeatures | None = None
