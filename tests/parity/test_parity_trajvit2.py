"""TrajViT2's numbers are the original's: embeddings, losses and the gradient of every weight.

In:   golden files (see README.md) whose names begin with clip_
Out:  agreement within 1e-4, gradient norms within 1e-3 relative, and weights that convert back bit for bit
"""

import pytest
import torch
from torch import Tensor

from modeling_trajtok import TrajViT2Model
from modeling_trajtok.convert_official_checkpoint import to_official, to_ours
from modeling_trajtok.losses_trajtok import patch_label_masks

from .test_parity_trajtok import Golden, assert_same, case_names, load_golden, untold_by_shapes


def convert(golden: Golden):
    return to_ours(
        golden.weights,
        transformer_heads=golden.meta["vit"]["num_attention_heads"],
        text_heads=golden.meta["bert"]["num_attention_heads"],
        **untold_by_shapes(golden.meta),
    )


def build(golden: Golden, attention: str, masked: bool) -> TrajViT2Model:
    model_class, config, state, _ = convert(golden)
    # The released checkpoint, and so the converter, ignores the mask.
    assert config.transformer_config.mask_empty_trajectories is False
    config.transformer_config.mask_empty_trajectories = masked
    model = model_class._from_config(config, attn_implementation=attention).eval()
    model.load_state_dict(state, strict=True)
    return model


def labels_of(golden: Golden) -> Tensor:
    """The original's patch labels (B, T, H, W), numbered as they first appear, which its Dice loss depends on."""
    batch, frames = golden.inputs["video"].shape[:2]
    side = int((golden.outputs["labels"].shape[1] // frames) ** 0.5)
    return golden.outputs["labels"].view(batch, frames, side, side)


@pytest.fixture(params=case_names("clip"))
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(params=["sdpa", "eager"])
def model(request, golden) -> TrajViT2Model:
    return build(golden, request.param, masked=golden.meta["attn_implementation"] == "eager")


def forward(model, golden):
    return model(
        golden.inputs["video"],
        input_ids=golden.inputs["input_ids"],
        attention_mask=golden.inputs["attention_mask"],
        idx=golden.inputs["idx"],
        trajectory_labels=labels_of(golden),
        return_loss=True,
    )


def test_embeddings_and_losses(model, golden):
    outputs = forward(model, golden)
    videos, tokenized = outputs.video_model_output, outputs.video_model_output.trajtok_output
    assert_same(tokenized.assignment_logits, golden.outputs["assignment_logits"])
    assert_same(videos.last_hidden_state, golden.outputs["last_hidden_state"])
    assert_same(outputs.text_model_output.last_hidden_state, golden.outputs["text_last_hidden_state"])
    assert_same(outputs.video_embeds, golden.outputs["video_embeds"])
    assert_same(outputs.text_embeds, golden.outputs["text_embeds"])
    assert_same(outputs.contrastive_loss, golden.outputs["loss_contrastive"])
    config = model.config.trajtok_config
    assert_same(config.pixel_loss_weight * tokenized.pixel_loss, golden.outputs["loss_pixel_half"])
    assert_same(config.dice_loss_weight * tokenized.dice_loss, golden.outputs["loss_class"])
    assert_same(outputs.loss, golden.outputs["loss_total"])
    assert_same(model.temperature.squeeze(), golden.outputs["temperature"])


def as_gathered_by_the_original(gradient: Tensor) -> Tensor:
    """What the goldens' gradient of the text embeddings went through.

    The original gathers the embeddings of all processes even if there is one. In the backward pass the gradient of the
    texts (N, E) arrives transposed in memory, and the gather of the CPU backend reads the memory as if it were not.
    """
    return gradient.contiguous().view(gradient.shape[1], gradient.shape[0]).t().contiguous()


def test_gradient_norms(model, golden):
    outputs = forward(model, golden)
    outputs.text_embeds.register_hook(as_gathered_by_the_original)
    outputs.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    norms = {name: value.norm().item() for name, value in to_official(model).items() if "rotary_emb" not in name}
    expected = {name: norm for name, norm in golden.meta["grad_norms"].items() if norm is not None}
    assert {name for name in norms if ".norms.3." not in name} == expected.keys()
    for name, norm in expected.items():
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-7), name


def test_weights_convert_back_bit_for_bit(golden):
    _, _, _, ignored = convert(golden)
    back = to_official(build(golden, "sdpa", masked=False))
    left_out = {name for name in ignored if "rotary_emb" not in name and ".norms.3." not in name}
    assert back.keys() == golden.weights.keys() - left_out
    assert all(torch.equal(back[name], golden.weights[name]) for name in back)


def test_the_mask_matters(golden):
    masked, unmasked = (build(golden, "sdpa", masked=masked) for masked in (True, False))
    with torch.no_grad():
        first = masked.get_video_features(golden.inputs["video"])
        second = unmasked.get_video_features(golden.inputs["video"])
    assert not first.token_valid.all()
    assert (first.pooler_output - second.pooler_output).abs().max() > 1e-3


def test_labels_are_those_of_mask_and_graph(golden):
    mask, graph = golden.inputs["mask"], golden.inputs["graph"]
    labels = torch.full(mask.shape, -1, dtype=torch.long)
    for clip, trajectory, frame in graph.nonzero().tolist():
        labels[clip, frame][mask[clip, frame] == graph[clip, trajectory, frame]] = trajectory
    expected = labels_of(golden)
    num_labels = graph.shape[1]
    shares = patch_label_masks(labels, tuple(expected.shape[2:]), num_labels, "nearest")
    ours = torch.where(shares.sum(dim=2) > 0, shares.argmax(dim=2), -1)
    for mine, theirs in zip(ours, expected.flatten(1), strict=True):
        pairs = {*zip(mine.tolist(), theirs.tolist(), strict=True)}
        assert len(pairs) == len(mine.unique()) == len(theirs.unique())  # the same up to numbering
        assert all((first == -1) == (second == -1) for first, second in pairs)
