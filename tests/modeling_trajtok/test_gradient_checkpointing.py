"""Gradient checkpointing gives the gradients of the plain model, with and without reentrant checkpoints."""

import re

import pytest
import torch

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajTokConfig,
    TrajTokModel,
    TrajTokSegmenterModel,
    TrajViT2Config,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
)
from modeling_trajtok.perceiver_trajtok import TrajTokPerceiverLayer

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 36}


def checkpoint(model, use_reentrant: bool) -> None:
    # Transformers 5.24 renamed it.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    assert any(layer.gradient_checkpointing for layer in model.modules() if isinstance(layer, TrajTokPerceiverLayer))


def trajtok(request):
    config = TrajTokConfig(
        **(request.getfixturevalue("tiny_config").to_dict() | {"encoder_queries": "latents_and_mean"})
    )
    clips, labels = torch.randn(2, 3, 3, 40, 72), torch.randint(0, 4, (2, 3, 20, 36))

    def loss(model):
        outputs = model(clips, trajectory_labels=labels, output_high_res=True)
        return outputs.loss + outputs.trajectory_embeds.square().mean()

    return TrajTokModel(config), loss


def padded_segmenter(request):
    frame_valid = torch.tensor([[True] * 3, [True, False, False]])
    clips, labels = torch.randn(2, 3, 3, 40, 72), torch.randint(0, 4, (2, 3, 20, 36))

    def loss(model):
        return model(clips, frame_valid, trajectory_labels=labels).loss

    return TrajTokSegmenterModel(request.getfixturevalue("tiny_config")), loss


def trajvit2(request):
    config = TrajViT2Config(
        trajtok_config=request.getfixturevalue("tiny_config"),
        transformer_config={"hidden_size": 48, "attention_dropout": 0.0, **SIZES},
        text_config={"model_type": "bert", "hidden_size": 32, "vocab_size": 20, "hidden_dropout_prob": 0.0,
                     "attention_probs_dropout_prob": 0.0, **SIZES},
        initializer_range=0.3,
    )  # fmt: skip
    clips, texts = torch.randn(2, 3, 3, 40, 72), torch.randint(1, 20, (2, 5))
    return TrajViT2Model(config), lambda model: model(clips, texts, return_loss=True).loss


def trajadapter(request):
    config = TrajAdapterConfig(
        backbone_config={"model_type": "dinov2", "hidden_size": 24, "image_size": 56, "patch_size": 8,
                         "num_hidden_layers": 1, "num_attention_heads": 2},
        trajtok_config=request.getfixturevalue("tiny_config").to_dict() | {"encoder_queries": "latents_and_mean"}
        | {"encoder_input_size": None, "encoder_output_size": None},
        num_pooler_heads=3,
        num_labels=3,
        freeze_segmenter=False,
    )  # fmt: skip
    clips = torch.randn(2, 3, 3, 56, 56)
    return TrajAdapterForVideoClassification(config), lambda model: model(clips, labels=torch.tensor([0, 2])).loss


def trajvlm(request, config: str = "vlm_config"):
    config = request.getfixturevalue(config)
    ids = torch.tensor([[9, config.video_token_id, 10]]).repeat_interleave(torch.tensor([1, 6, 1]), dim=1)
    clips, labels = torch.randn(1, 3, 3, 48, 48), torch.full_like(ids, 10)
    model = TrajVLMForConditionalGeneration(config)
    return model, lambda model: model(input_ids=ids, pixel_values_videos=clips, labels=labels).loss


def trajvlm_on_trajvit2(request):
    return trajvlm(request, "trajvit2_config")


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_checkpointing_changes_nothing(model, loss) -> None:
    expected = gradients(model, loss)
    assert expected
    for use_reentrant in (False, True):
        checkpoint(model, use_reentrant)
        found = gradients(model, loss)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", [trajtok, padded_segmenter, trajvit2, trajadapter, trajvlm, trajvlm_on_trajvit2])
def test_gradients_are_those_of_the_plain_model(case, request):
    torch.manual_seed(0)
    model, loss = case(request)
    assert_checkpointing_changes_nothing(model.train(), loss)


@pytest.mark.parametrize("trained", ["q_proj", "pointwise_conv1"])
def test_layers_on_frozen_ones_learn(trained, request):
    """The inputs of the first layer ask for no gradient, as when adapters are trained."""
    torch.manual_seed(0)
    model, loss = trajtok(request)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    assert_checkpointing_changes_nothing(model.train(), loss)


@pytest.mark.parametrize(("case", "trained"), [(trajadapter, r"backbone\..*layer.*q_proj"), (trajvit2, r"mlp|dense")])
def test_trained_layers_of_frozen_towers_learn(case, trained, request):
    """What stands before the first of them is frozen."""
    torch.manual_seed(0)
    model, loss = case(request)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.search(trained, name) is not None)
    assert_checkpointing_changes_nothing(model.train(), loss)
