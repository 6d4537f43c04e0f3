"""What must hold for every TrajTok model, whatever it has learnt: invariants on a tiny one, all sizes different."""

import math
import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import (
    AutoConfig,
    AutoModel,
    AutoVideoProcessor,
    BertConfig,
    BertModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokOutput, TrajTokSegmenterModel, TrajTokVideoProcessor

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
VARIANTS = {
    "sequence": {},
    "grid": {"query_positions": "grid", "encoder_positions": "grid"},
    "mean": {"encoder_queries": "mean", "track_embedding": True, "outline_embedding": True},
    "latents_and_mean": {"encoder_queries": "latents_and_mean", "encoder_positions": "grid"},
}
ENCODED = ("trajectory_embeds", "token_valid", "trajectory_ids", "trajectory_queries")


@pytest.fixture(params=VARIANTS)
def variant(request, tiny_config) -> TrajTokConfig:
    return TrajTokConfig(**(tiny_config.to_dict() | VARIANTS[request.param]))


@pytest.fixture
def clips() -> Tensor:
    """(2, 5, 3, 40, 72): a grid of 5 x 10 x 18 patches, not a multiple of the backbone's 32 pixels."""
    torch.manual_seed(1)
    return torch.randn(2, 5, 3, 40, 72)


@pytest.fixture
def labels() -> Tensor:
    """(2, 5, 20, 36) at another resolution than the patches: four labels, the first row ignored."""
    torch.manual_seed(2)
    labels = torch.randint(0, 4, (2, 5, 20, 36))
    labels[:, :, :2] = -1
    return labels


def changed(config: TrajTokConfig, **fields) -> TrajTokConfig:
    return TrajTokConfig(**(config.to_dict() | fields))


def build(config: TrajTokConfig, attention: str = "sdpa", model_class=TrajTokModel):
    torch.manual_seed(0)
    return model_class._from_config(config, attn_implementation=attention).eval()


def assert_outputs_close(found: TrajTokOutput, expected: TrajTokOutput, **tolerance) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        if expected[name].is_floating_point():
            torch.testing.assert_close(
                found[name], expected[name], **(CLOSE | tolerance), msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert torch.equal(found[name], expected[name]), name


# --- shapes and types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "height_px", "width_px", "grid"),
    [(5, 40, 72, (10, 18)), (1, 32, 32, (8, 8)), (2, 47, 61, (11, 15)), (3, 33, 100, (8, 25))],
)
def test_shapes_and_types(tiny_config, frames, height_px, width_px, grid):
    height, width = grid
    num_patches = frames * height * width
    torch.manual_seed(0)
    labels = torch.randint(-1, 6, (2, frames, height_px, width_px))
    outputs = build(tiny_config)(
        torch.randn(2, frames, 3, height_px, width_px), trajectory_labels=labels, output_high_res=True
    )
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in outputs.items()}
    assert shapes == {
        "loss": ((), torch.float32),
        "trajectory_embeds": ((2, 12, 48), torch.float32),
        "token_valid": ((2, 12), torch.bool),
        "trajectory_ids": ((2, frames, height, width), torch.int64),
        "assignment_logits": ((2, num_patches, 6), torch.float32),
        "assignment_logits_high_res": ((2, num_patches * 16, 6), torch.float32),
        "patch_features": ((2, num_patches, 48), torch.float32),
        "trajectory_queries": ((2, 6, 48), torch.float32),
        "pixel_loss": ((), torch.float32),
        "dice_loss": ((), torch.float32),
    }
    assert all(value.isfinite().all() for value in outputs.values())
    assert torch.equal(outputs.trajectory_ids.flatten(1), outputs.assignment_logits.argmax(dim=-1))
    for clip in range(2):
        owners = outputs.trajectory_ids[clip].unique()
        assert torch.equal(
            outputs.token_valid[clip].view(6, 2), torch.isin(torch.arange(6), owners)[:, None].expand(6, 2)
        )


def test_the_segmenter_alone_segments_like_the_whole_model(tiny_config, clips, labels):
    whole, segmenter = build(tiny_config), build(tiny_config, model_class=TrajTokSegmenterModel)
    missing = segmenter.load_state_dict(whole.state_dict(), strict=False).missing_keys
    assert not missing
    found = segmenter(clips, trajectory_labels=labels, output_high_res=True)
    expected = whole(clips, trajectory_labels=labels, output_high_res=True)
    assert found.trajectory_embeds is None and found.token_valid is None
    assert_outputs_close(found, TrajTokOutput(**{name: expected[name] for name in found}))


def test_loss_is_the_weighted_sum_of_its_parts(tiny_config, clips, labels):
    config = changed(tiny_config, pixel_loss_weight=3.0, dice_loss_weight=0.25, auxiliary_loss_weight=0.0)
    outputs = build(config)(clips, trajectory_labels=labels)
    torch.testing.assert_close(outputs.loss, 3.0 * outputs.pixel_loss + 0.25 * outputs.dice_loss)


def test_auxiliary_loss_is_that_of_the_queries_of_the_earlier_layers(tiny_config, clips, labels):
    """The first of two layers is judged as if it were the last: by a model of one layer with the same weights."""
    weights = build(changed(tiny_config, num_query_layers=2)).state_dict()

    def loss(**fields) -> Tensor:
        model = build(changed(tiny_config, **fields))
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return model(clips, trajectory_labels=labels).loss

    both = loss(num_query_layers=2, auxiliary_loss_weight=0.5)
    last = loss(num_query_layers=2, auxiliary_loss_weight=0.0)
    first = loss(num_query_layers=1, auxiliary_loss_weight=0.5)
    torch.testing.assert_close(both, last + 0.5 * first)


def test_a_tuple_on_request(tiny_config, clips, labels):
    model = build(tiny_config)
    found = model(clips, trajectory_labels=labels, return_dict=False)
    expected = model(clips, trajectory_labels=labels).to_tuple()
    assert isinstance(found, tuple) and len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("positions", ["sequence", "grid"])
def test_states_and_attentions_of_the_layers(tiny_config, clips, positions):
    """Five frames, of which inference otherwise reads fewer at a time."""
    config = changed(
        tiny_config, num_encoder_layers=3, query_positions=positions, encoder_positions=positions, frames_per_block=2
    )
    for model_class, layers, queries in ((TrajTokModel, 3, 6 * 2), (TrajTokSegmenterModel, 2, 6)):
        keys = 5 * 10 * 18 + (queries if positions == "sequence" else 0)
        model = build(config, "eager", model_class)
        with torch.no_grad():
            plain = model(clips)
            outputs = model(clips, output_hidden_states=True, output_attentions=True)
            config.output_hidden_states = True
            assert len(model(clips).hidden_states) == 1 + layers
            config.output_hidden_states = False
        assert plain.hidden_states is None and plain.attentions is None
        assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, queries, 48)] * (1 + layers)
        assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 3, queries, keys)] * layers
        for weights in outputs.attentions:
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, queries))
        if model_class is TrajTokModel:
            tokens = model.encoder.output_proj(outputs.hidden_states[-1])
            torch.testing.assert_close(tokens, outputs.trajectory_embeds, **CLOSE)
            torch.testing.assert_close(plain.trajectory_embeds, outputs.trajectory_embeds, **CLOSE)
            # A trajectory's weights lie on its own patches, but for the last two, which every trajectory reads.
            owner = outputs.trajectory_ids.flatten(1)[:, None, None]
            own = owner == torch.arange(6).repeat_interleave(2)[:, None]
            own[..., -2:] = True
            assert not weights[..., keys - 5 * 10 * 18 :].masked_select(~own).any()
        else:
            torch.testing.assert_close(outputs.hidden_states[-1], outputs.trajectory_queries)
        quiet = build(config, "sdpa", model_class)(clips, output_attentions=True)
        assert quiet.attentions == ()  # no weights are computed


@pytest.mark.parametrize("fusion", ["sum", "concat", "last"])
def test_feature_fusions_differ(tiny_config, clips, fusion):
    model = build(changed(tiny_config, feature_fusion=fusion))
    features = model(clips).patch_features
    assert features.shape == (2, 900, 48) and features.isfinite().all()
    other = build(changed(tiny_config, feature_fusion="last" if fusion == "sum" else "sum"))
    assert not torch.allclose(features, other(clips).patch_features)


@pytest.mark.parametrize("factor", [None, 1, 2, 4, 8])
def test_high_resolution_factors(tiny_config, clips, factor):
    model = build(changed(tiny_config, high_res_factor=factor))
    outputs = model(clips, output_high_res=factor is not None)
    high_res = outputs.assignment_logits_high_res
    assert high_res is None if factor is None else high_res.shape == (2, 900 * factor**2, 6)


def test_patch_features_are_those_of_each_frame_alone(tiny_config, clips):
    """The backbone sees frames one by one, so the order of frames is the order of its features."""
    model = build(tiny_config)
    order = torch.tensor([3, 0, 4, 1, 2])
    features = model(clips).patch_features.unflatten(1, (5, 180))
    shuffled = model(clips[:, order]).patch_features.unflatten(1, (5, 180))
    torch.testing.assert_close(shuffled, features[:, order], **CLOSE)


# --- the same numbers however the work is arranged -------------------------------------------------------------------


def mean_of_losses(outputs: list[TrajTokOutput]) -> Tensor:
    return torch.stack([output.loss for output in outputs]).mean()


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
def test_a_batch_is_its_clips(variant, clips, labels, in_blocks):
    model = build(variant)
    model.config.frames_per_block = 4  # two frames of each clip of the batch, four of a clip alone
    with torch.set_grad_enabled(not in_blocks):
        batch = model(clips, trajectory_labels=labels, output_high_res=True)
        alone = [model(clips[i : i + 1], trajectory_labels=labels[i : i + 1], output_high_res=True) for i in range(2)]
    for name in (*ENCODED, "assignment_logits", "assignment_logits_high_res", "patch_features"):
        torch.testing.assert_close(batch[name], torch.cat([clip[name] for clip in alone]), **CLOSE)
    torch.testing.assert_close(batch.loss, mean_of_losses(alone), **CLOSE)


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_batch_is_its_clips(variant, clips, labels, attention, in_blocks):
    """The second clip has three frames; what stands in the other two must not matter."""
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    clips[1, 3:] *= 50.0
    model = build(variant, attention)
    model.config.frames_per_block = 4
    with torch.set_grad_enabled(not in_blocks):
        batch = model(clips, frame_valid=frame_valid, trajectory_labels=labels, output_high_res=True)
        alone = [
            model(clips[i : i + 1, :n], trajectory_labels=labels[i : i + 1, :n], output_high_res=True)
            for i, n in ((0, 5), (1, 3))
        ]
    for clip, output in enumerate(alone):
        frames = output.trajectory_ids.shape[1]
        for name in ("trajectory_embeds", "token_valid", "trajectory_queries"):
            torch.testing.assert_close(batch[name][clip], output[name][0], **CLOSE)
        for name, per_frame in (("assignment_logits", 180), ("assignment_logits_high_res", 2880)):
            torch.testing.assert_close(batch[name][clip, : frames * per_frame], output[name][0], **CLOSE)
        assert torch.equal(batch.trajectory_ids[clip, :frames], output.trajectory_ids[0])
        assert (batch.trajectory_ids[clip, frames:] == -1).all()
    torch.testing.assert_close(batch.loss, mean_of_losses(alone), **CLOSE)


def test_a_padded_batch_has_the_gradients_of_its_clips(tiny_config, clips, labels):
    config = changed(tiny_config, encoder_queries="latents_and_mean", detach_patch_features=False)
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])

    def gradients(*calls):
        model = build(config)
        for frames_of, kwargs in calls:
            outputs = model(frames_of, output_high_res=True, **kwargs)
            (outputs.loss + outputs.trajectory_embeds.square().mean()).div(len(calls)).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    padded = gradients((clips, {"frame_valid": frame_valid, "trajectory_labels": labels}))
    alone = gradients(
        (clips[:1], {"trajectory_labels": labels[:1]}), (clips[1:, :3], {"trajectory_labels": labels[1:, :3]})
    )
    for name, gradient in alone.items():
        torch.testing.assert_close(padded[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frames_per_block", [1, 2, 3])
def test_blocks_of_frames_are_the_whole_clip(variant, clips, frames_per_block, attention):
    model = build(variant, attention)
    whole = model(clips[:1], output_high_res=True)
    model.config.frames_per_block = frames_per_block
    with torch.no_grad():
        blocks = model(clips[:1], output_high_res=True)
    assert_outputs_close(blocks, whole)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_implementations_agree(variant, clips, padded, monkeypatch):
    """One model, switched at run time. Flex attention has no backward on CPUs, so this runs without gradients."""
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if padded else None
    calls = []
    flex = ALL_ATTENTION_FUNCTIONS["flex_attention"]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flex_attention", lambda *a, **k: calls.append(1) or flex(*a, **k))
    model = build(variant)
    model.config.frames_per_block = 10  # the clips are one block
    with torch.no_grad():
        expected = model(clips, frame_valid=frame_valid)
        for attention in ("eager", "flex_attention"):
            model.set_attn_implementation(attention)
            assert model.segmenter.perceiver.layers[0].attention.config._attn_implementation == attention
            assert_outputs_close(model(clips, frame_valid=frame_valid), expected)
    assert len(calls) >= variant.num_query_layers


@pytest.mark.parametrize("feature_cache", ["recompute", "half"])
def test_a_long_video_is_a_clip(variant, clips, feature_cache):
    model = build(variant)
    model.config.frames_per_block = 2
    expected = model(clips[:1])
    reads = []
    found = model.tokenize_long_video(
        lambda first, last: clips[:1, first:last], 5, feature_cache=feature_cache, progress=reads.append
    )
    assert sum(reads) == 5 * model.passes_over_long_video(feature_cache) or feature_cache == "recompute"
    assert found.trajectory_ids.shape == (1, 5, 10, 18)
    if feature_cache == "recompute":
        for name in ENCODED:
            torch.testing.assert_close(found[name], expected[name], **CLOSE)
    else:
        same = (found.trajectory_ids == expected.trajectory_ids).float().mean()
        assert same > 0.95
        # Features are rounded to 8 bits of mantissa: single patches may change owner, tokens move a little.
        error = (found.trajectory_embeds - expected.trajectory_embeds).norm() / expected.trajectory_embeds.norm()
        assert 0 < error < 0.1


@pytest.mark.parametrize("query_layers", [1, 3])
def test_passes_over_a_long_video_are_counted(variant, clips, query_layers):
    model = build(changed(variant, num_query_layers=query_layers))
    model.config.frames_per_block = 2
    reads = []
    model.tokenize_long_video(lambda first, last: clips[:1, first:last], 5, progress=reads.append)
    # The last frame, which every trajectory reads, is read once more.
    assert sum(reads) == 5 * model.passes_over_long_video() + 1


# --- meaning ---------------------------------------------------------------------------------------------------------


def test_permuting_the_latents_permutes_the_trajectories(tiny_config, clips):
    """With positions on the grid, latents have none: nothing but their values tells them apart."""
    model = build(changed(tiny_config, query_positions="grid"))
    before = model(clips, output_high_res=True)
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    with torch.no_grad():
        model.segmenter.latents.weight.copy_(model.segmenter.latents.weight[order])
    after = model(clips, output_high_res=True)
    for name in ("assignment_logits", "assignment_logits_high_res"):
        torch.testing.assert_close(after[name], before[name][..., order], **CLOSE)
    same = order[after.trajectory_ids] == before.trajectory_ids
    # Two logits may be equal but for rounding; then either trajectory may win.
    highest = before.assignment_logits.topk(2, dim=-1).values
    margin = (highest[..., 0] - highest[..., 1]).view_as(same)
    assert same[margin > 1e-4].all() and (margin > 1e-4).float().mean() > 0.5


@pytest.mark.parametrize("positions", ["sequence", "grid"])
def test_fewer_tokens_per_trajectory(tiny_config, clips, positions):
    model = build(changed(tiny_config, encoder_positions=positions, max_tokens_per_trajectory=4))
    every, one = model(clips), model(clips, tokens_per_trajectory=1)
    assert every.trajectory_embeds.shape == (2, 24, 48) and one.trajectory_embeds.shape == (2, 6, 48)
    assert torch.equal(every.token_valid.view(2, 6, 4), one.token_valid.unsqueeze(2).expand(2, 6, 4))
    assert torch.equal(every.trajectory_ids, one.trajectory_ids)
    first = every.trajectory_embeds.view(2, 6, 4, 48)[:, :, 0]
    # Latents that do not read each other give the same first token, however many follow it.
    assert torch.allclose(first, one.trajectory_embeds, **CLOSE) == (positions == "grid")


def given_ids(num_trajectories: int = 5) -> Tensor:
    """(2, 5, 10, 18) ids on the patch grid, some patches without a trajectory; trajectory 5 of 6 is absent."""
    torch.manual_seed(3)
    return torch.randint(-1, num_trajectories, (2, 5, 10, 18))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
def test_given_trajectories_are_honoured(variant, attention, in_blocks):
    """A token depends on the patches of its trajectory and on the last two of the clip, and on no other."""
    model = build(variant, attention)
    model.config.frames_per_block = 4
    ids, features = given_ids(), torch.randn(2, 900, 48)
    # A direction, not one number for all channels, which the norms would take out again.
    direction = 3.0 * torch.randn(48)
    moved = features + direction * (ids.flatten(1) == 2).unsqueeze(2)
    moved[:, -2:] = features[:, -2:]
    with torch.set_grad_enabled(not in_blocks):
        before, after, anchors_moved = (
            model(patch_features=x, patch_grid=(5, 10, 18), trajectory_ids=ids)
            for x in (features, moved, torch.cat((features[:, :-2], features[:, -2:] + direction), dim=1))
        )
    assert torch.equal(before.trajectory_ids, ids)
    assert before.assignment_logits is None and before.trajectory_queries is None
    assert before.token_valid.tolist() == [[True] * 10 + [False] * 2] * 2
    change = (after.trajectory_embeds - before.trajectory_embeds).abs().amax(dim=2).view(2, 6, 2)
    assert (change[:, [0, 1, 3, 4, 5]] < 1e-4).all() and (change[:, 2] > 1e-3).all()
    assert (anchors_moved.trajectory_embeds != before.trajectory_embeds).any(dim=2).all()


SHARES = {
    "one_owns_all": lambda n: torch.full((2, n), 3),
    "nobody_owns_any": lambda n: torch.full((2, n), -1),
    "one_patch_each": lambda n: F.pad(torch.arange(6).expand(2, 6), (0, n - 6), value=-1),
    "one_takes_nearly_all": lambda n: (torch.arange(n) % 97 == 5).long().expand(2, n).contiguous(),
    "only_the_last_patches": lambda n: F.pad(torch.full((2, 3), 4), (n - 3, 0), value=-1),
    "another_owner_in_each_clip": lambda n: torch.tensor([[0], [5]]).expand(2, n).contiguous(),
}


@pytest.mark.parametrize("share", SHARES)
def test_any_share_of_patches_is_attended_as_the_reference_does(variant, share):
    """Patches are attended in sorted segments; eager attention with its full mask says what must come out."""
    ids = SHARES[share](900).view(2, 5, 10, 18)
    outputs, gradients = [], []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(7)
        features = torch.randn(2, 900, 48, requires_grad=True)
        outputs.append(build(variant, attention)(patch_features=features, patch_grid=(5, 10, 18), trajectory_ids=ids))
        outputs[-1].trajectory_embeds.square().sum().backward()
        gradients.append(features.grad)
    assert_outputs_close(*outputs)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_patches_without_a_trajectory_are_read_by_nobody(tiny_config):
    model = build(tiny_config)
    ids, features = given_ids(), torch.randn(2, 900, 48)
    nobody = (ids.flatten(1) == -1).unsqueeze(2)
    nobody[:, -2:] = False
    found, expected = (
        model(patch_features=x, patch_grid=(5, 10, 18), trajectory_ids=ids).trajectory_embeds
        for x in (features + 100.0 * torch.randn(48) * nobody, features)
    )
    torch.testing.assert_close(found, expected, **CLOSE)


def test_ids_at_another_resolution_are_resized(tiny_config, clips):
    model = build(tiny_config)
    ids = given_ids()
    fine = ids.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert_outputs_close(model(clips, trajectory_ids=fine), model(clips, trajectory_ids=ids))


def test_features_of_another_backbone(tiny_config, clips):
    """The pixels are segmented; the trajectories are those of the logits resized to the features' grid."""
    model = build(changed(tiny_config, encoder_input_size=24, encoder_output_size=40))
    features = torch.randn(2, 5 * 4 * 7, 24)
    found = model(clips, patch_features=features, patch_grid=(5, 4, 7))
    assert found.trajectory_embeds.shape == (2, 12, 40)
    assert found.trajectory_ids.shape == (2, 5, 10, 18) and found.patch_features.shape == (2, 900, 48)
    maps = found.assignment_logits.view(10, 10, 18, 6).permute(0, 3, 1, 2)
    ids = F.interpolate(maps, size=(4, 7), mode="bilinear", align_corners=False).argmax(dim=1).view(2, 5, 4, 7)
    given = model(patch_features=features, patch_grid=(5, 4, 7), trajectory_ids=ids)
    torch.testing.assert_close(found.trajectory_embeds, given.trajectory_embeds, **CLOSE)
    assert torch.equal(found.token_valid, given.token_valid)


def test_patch_features_alone_do_as_pixels_do(variant, clips):
    model = build(variant)
    expected = model(clips, output_high_res=True)
    found = model(patch_features=expected.patch_features, patch_grid=(5, 10, 18), output_high_res=True)
    assert_outputs_close(found, expected)


def test_a_clip_of_one_patch_row_and_one_frame(tiny_config):
    outputs = build(tiny_config)(patch_features=torch.randn(1, 1, 48), patch_grid=(1, 1, 1))
    assert outputs.trajectory_embeds.isfinite().all() and outputs.token_valid.sum() == 2


# --- training --------------------------------------------------------------------------------------------------------


def test_every_parameter_learns(tiny_config, clips, labels):
    model = build(changed(tiny_config, encoder_queries="latents_and_mean")).train()
    outputs = model(clips, trajectory_labels=labels, output_high_res=True)
    (outputs.loss + outputs.trajectory_embeds.square().mean()).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not silent


@pytest.mark.parametrize(("queries", "reaches"), [("latents", False), ("mean", True), ("latents_and_mean", True)])
def test_the_soft_mean_carries_the_task_to_the_segmenter(tiny_config, clips, queries, reaches):
    model = build(changed(tiny_config, encoder_queries=queries)).train()
    model(clips).trajectory_embeds.square().mean().backward()
    gradient = model.segmenter.trajectory_head[0].weight.grad
    assert (gradient is not None and bool(gradient.any())) == reaches


@pytest.mark.parametrize("detached", [True, False])
def test_detached_features_stop_the_gradient_of_the_queries(tiny_config, clips, detached):
    model = build(changed(tiny_config, detach_patch_features=detached)).train()
    model(clips).trajectory_queries.square().mean().backward()
    gradients = [parameter.grad for parameter in model.segmenter.patch_encoder.parameters()]
    assert all(gradient is None for gradient in gradients) == detached


def test_gradient_checkpointing_changes_nothing(tiny_config, clips, labels):
    config = changed(tiny_config, encoder_queries="latents_and_mean")
    runs = []
    for checkpointed in (False, True):
        model = build(config).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        outputs = model(clips, trajectory_labels=labels, output_high_res=True)
        (outputs.loss + outputs.trajectory_embeds.square().mean()).backward()
        runs.append((outputs.loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (loss, gradients), (checkpointed_loss, checkpointed_gradients) = runs
    torch.testing.assert_close(checkpointed_loss, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed_gradients[name], gradient)


def test_one_step_of_the_trainer(tiny_config, clips, labels, tmp_path):
    """Transformers' own Trainer, with padded clips; the loss is the model's, on any way of splitting the batch."""
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    data = [
        {"pixel_values_videos": clips[i], "frame_valid": frame_valid[i], "trajectory_labels": labels[i]}
        for i in (0, 1)
    ]
    losses = []
    for batch_size in (1, 2):
        model = build(tiny_config)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        settings = TrainingArguments(
            output_dir=str(tmp_path / str(batch_size)),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=2 // batch_size,
            max_steps=1,
            learning_rate=1e-3,
            max_grad_norm=1e9,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1,
        )
        trainer = Trainer(model=model, args=settings, train_dataset=data, eval_dataset=data)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert math.isfinite(trainer.evaluate()["eval_loss"])
        moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
        assert any(name.startswith("segmenter.latents") for name in moved)
        assert "segmenter.patch_encoder.backbone.stages.0.layers.0.depthwise_conv.weight" in moved
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_loss_falls(tiny_config, clips, labels):
    model = build(tiny_config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(clips, trajectory_labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_is_near_single(variant, clips, dtype, tolerance, attention, in_blocks):
    """Trajectories are given, so that a patch that changes its owner cannot hide the rounding of the encoder."""
    ids = given_ids()
    model = build(variant, attention)
    model.config.frames_per_block = 4
    with torch.set_grad_enabled(not in_blocks):
        segmented, encoded = model(clips), model(clips, trajectory_ids=ids)
        model.to(dtype)
        half_segmented, half_encoded = model(clips), model(clips, trajectory_ids=ids)
    assert half_encoded.trajectory_embeds.dtype == dtype
    assert half_segmented.assignment_logits.dtype == torch.float32
    for found, expected in (
        (half_segmented.assignment_logits, segmented.assignment_logits),
        (half_segmented.trajectory_queries, segmented.trajectory_queries),
        (half_encoded.trajectory_embeds, encoded.trajectory_embeds),
    ):
        assert found.isfinite().all()
        assert (found.float() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_keeps_padding_out(tiny_config, clips, attention):
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    model = build(tiny_config, attention).to(torch.float16)
    outputs = model(clips, frame_valid=frame_valid)
    clips[1, 3:] += 5.0
    other = model(clips, frame_valid=frame_valid)
    assert outputs.trajectory_embeds.isfinite().all()
    torch.testing.assert_close(other.trajectory_embeds, outputs.trajectory_embeds)


def test_autocast_trains(tiny_config, clips, labels):
    model = build(changed(tiny_config, encoder_queries="latents_and_mean")).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(clips, trajectory_labels=labels, output_high_res=True)
        (outputs.loss + outputs.trajectory_embeds.float().square().mean()).backward()
    assert outputs.assignment_logits.dtype == torch.float32
    full = build(changed(tiny_config, encoder_queries="latents_and_mean"))
    assert outputs.loss.item() == pytest.approx(
        full(clips, trajectory_labels=labels, output_high_res=True).loss.item(), rel=0.05
    )
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_scale_of_the_logits_stays_in_single_precision(tiny_config, tmp_path):
    build(tiny_config).save_pretrained(tmp_path)
    model = TrajTokModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.segmenter.assignment.log_scale.dtype == torch.float32
    assert model.segmenter.latents.weight.dtype == torch.bfloat16


# --- citizenship in Transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [TrajTokModel, TrajTokSegmenterModel])
def test_saved_and_loaded(variant, clips, model_class, tmp_path):
    model = build(variant, model_class=model_class)
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_outputs_close(loaded(clips), model(clips), atol=0, rtol=0)
    saved, found = model.config.to_dict(), loaded.config.to_dict()
    fields = set(TrajTokConfig.__annotations__) & set(saved) - {"backbone_config"}
    assert len(fields) > 20 and all(found[name] == saved[name] for name in fields)
    sizes = ("depths", "hidden_sizes", "layer_scale_init_value", "model_type")
    assert all(found["backbone_config"][name] == saved["backbone_config"][name] for name in sizes)


def test_the_auto_classes_know_it(tiny_config, clips, tmp_path):
    model = build(tiny_config)
    model.save_pretrained(tmp_path)
    TrajTokVideoProcessor().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TrajTokConfig
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is TrajTokModel
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is TrajTokVideoProcessor
    assert type(AutoModel.from_config(tiny_config)) is TrajTokModel
    assert_outputs_close(loaded(clips), model(clips), atol=0, rtol=0)


def test_initial_weights(tiny_config):
    model = build(tiny_config)
    segmenter = model.segmenter
    assert (F.softplus(segmenter.assignment.log_scale) + 1).item() == pytest.approx(tiny_config.initial_logit_scale)
    for latents in (segmenter.latents.weight, model.encoder.latents):
        assert latents.std().item() == pytest.approx(tiny_config.initializer_range, rel=0.2)
    gammas = [parameter for name, parameter in model.named_parameters() if name.endswith(".gamma")]
    assert len(gammas) == 4 and all((gamma == 0.5).all() for gamma in gammas)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_layers_that_must_not_be_split_exist(tiny_config):
    model = build(tiny_config)
    assert set(model._no_split_modules) <= {type(module).__name__ for module in model.modules()}


def test_layers_may_live_on_disk(tiny_config, clips, tmp_path):
    model = build(tiny_config)
    model.save_pretrained(tmp_path)
    # So little memory that most layers live on disk and visit the processor one after the other.
    offloaded = TrajTokModel.from_pretrained(
        tmp_path, device_map="auto", max_memory={"cpu": "200KB"}, offload_folder=tmp_path / "disk"
    )
    assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
    with torch.no_grad():
        assert_outputs_close(offloaded(clips), model(clips))


def test_backbone_takes_over_dinov3_weights(tiny_config, tmp_path):
    """Our four stages and the norm give what Transformers' DINOv3 gives."""
    torch.manual_seed(5)
    sizes = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5}
    dinov3 = DINOv3ConvNextModel(DINOv3ConvNextConfig(**sizes)).eval()
    dinov3.save_pretrained(tmp_path)
    backbone = build(tiny_config).segmenter.patch_encoder.backbone
    backbone.load_dinov3(tmp_path)
    frames = torch.randn(3, 3, 64, 96)
    stages = backbone(frames)
    expected = dinov3(frames, output_hidden_states=True)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(8, 16, 24), (12, 8, 12), (16, 4, 6), (20, 2, 3)]
    for found, hidden in zip(stages[:3], expected.hidden_states[1:4], strict=True):
        torch.testing.assert_close(found, hidden, **CLOSE)
    normed = expected.last_hidden_state[:, 1:]  # the first token is the pooled one
    torch.testing.assert_close(stages[3].flatten(2).transpose(1, 2), normed, **CLOSE)


# --- compilation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "training", "padded"),
    [("sequence", True, True), ("grid", False, False), ("mean", False, True)],
)
def test_the_forward_is_one_graph(tiny_config, clips, name, training, padded):
    """Traced without a break, forward and backward; this backend runs the graph without generating code."""
    torch.compiler.reset()
    frame_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if padded else None
    model = build(changed(tiny_config, **VARIANTS[name]))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(training):
        found, expected = (run(clips, frame_valid=frame_valid, output_high_res=True) for run in (compiled, model))
        assert_outputs_close(found, expected)
        if training:
            runs = []
            for outputs in (found, expected):
                model.zero_grad()
                outputs.trajectory_embeds.square().mean().backward()
                runs.append(model.encoder.output_proj.weight.grad.clone())
            torch.testing.assert_close(*runs, **CLOSE)


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="PyTorch 2.11 guards on every length: a graph each")
@pytest.mark.parametrize(
    ("name", "training", "padded", "dynamic", "graphs"),
    [("mean", False, True, None, 2), ("sequence", True, False, True, 1)],
)
def test_clips_of_every_length_share_their_graphs(tiny_config, name, training, padded, dynamic, graphs):
    """The second length makes the graph general, in frames and in clips; with ``dynamic=True`` the first does.

    All batches are of less than 16 frames: from there on PyTorch chooses other convolutions on CPUs, in one
    graph more.
    """
    torch.compiler.reset()
    counters.clear()
    model = build(changed(tiny_config, num_query_layers=1, high_res_factor=None, **VARIANTS[name]))
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=dynamic)
    with torch.set_grad_enabled(training):
        for batch, frames in ((2, 4), (3, 5), (4, 3), (2, 7), (5, 2)):
            clips, frame_valid = torch.randn(batch, frames, 3, 40, 72), None
            if padded:
                frame_valid = torch.ones(batch, frames, dtype=torch.bool)
                frame_valid[1, 2:] = False
            assert_outputs_close(compiled(clips, frame_valid), model(clips, frame_valid))
    assert counters["stats"]["unique_graphs"] == graphs


def test_the_compiled_model_gives_the_same_numbers(tiny_config, clips):
    """`torch.compile` with its default backend, which needs a C++ compiler."""
    if shutil.which(os.environ.get("CXX", "g++")) is None and not os.environ.get("CI"):
        pytest.skip("torch.compile needs a C++ compiler on CPUs, and there is none")
    torch.compiler.reset()
    model = build(changed(tiny_config, num_query_layers=1))
    with torch.no_grad():
        assert_outputs_close(torch.compile(model, fullgraph=True)(clips), model(clips))


@pytest.mark.parametrize(("name", "padded"), [("sequence", True), ("grid", False), ("mean", True)])
def test_the_exported_model_gives_the_same_numbers(tiny_config, clips, name, padded, tmp_path):
    model = build(changed(tiny_config, **VARIANTS[name]))
    inputs = {"pixel_values_videos": clips}
    if padded:
        inputs["frame_valid"] = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        program = torch.export.export(model, (), inputs)
        torch.export.save(program, tmp_path / "trajtok.pt2")
        exported = torch.export.load(tmp_path / "trajtok.pt2").module()
        fresh = {name: value.flip(0) for name, value in inputs.items()}  # not the inputs it was traced with
        assert_outputs_close(exported(**fresh), model(**fresh))


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="PyTorch 2.11 writes ONNX that no runtime reads")
@pytest.mark.parametrize(("name", "padded"), [("sequence", True), ("mean", False)])
def test_onnx_and_the_exported_model_take_any_number_of_clips_and_frames(tiny_config, name, padded):
    """One export with dynamic shapes, run by PyTorch and, converted, by ONNX Runtime."""
    if not os.environ.get("CI"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    import onnxruntime

    model = build(changed(tiny_config, num_query_layers=1, high_res_factor=None, **VARIANTS[name]))
    axes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames", min=2)}
    inputs = {"pixel_values_videos": torch.randn(2, 4, 3, 40, 72)}
    longer = {"pixel_values_videos": torch.randn(3, 7, 3, 40, 72)}
    if padded:
        inputs["frame_valid"] = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
        longer["frame_valid"] = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [True] + [False] * 6])
    with torch.no_grad():
        program = torch.onnx.export(
            model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, axes), dynamo=True, verbose=False
        )
        exported = program.exported_program.module()
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        for given in (inputs, longer):
            expected = model(**given)
            assert_outputs_close(exported(**given), expected)
            found = session.run(None, {name: value.numpy() for name, value in given.items()})
            for value, right in zip(found, expected.values(), strict=True):
                torch.testing.assert_close(torch.from_numpy(value), right, **CLOSE)


# --- bad input -------------------------------------------------------------------------------------------------------


def zeros(*shape, dtype=torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


PIXELS = {"pixel_values_videos": torch.zeros(2, 3, 3, 40, 72)}
FEATURES = {"patch_features": torch.zeros(2, 60, 48), "patch_grid": (3, 4, 5)}
BAD_INPUTS = {
    "nothing": ({}, "got no input, expected pixel_values_videos or patch_features"),
    "one_image": ({"pixel_values_videos": torch.zeros(3, 3, 40, 72)}, r"\(3, 3, 40, 72\), expected .*unsqueeze"),
    "channels_last": ({"pixel_values_videos": torch.zeros(2, 3, 40, 72, 3)}, r"\(2, 3, 40, 72, 3\), expected"),
    "raw_bytes": (
        {"pixel_values_videos": zeros(2, 3, 3, 40, 72, dtype=torch.uint8)},
        "uint8, .*TrajTokVideoProcessor",
    ),
    "numpy": ({"pixel_values_videos": torch.zeros(2, 3, 3, 40, 72).numpy()}, "ndarray, expected a tensor.*Processor"),
    "no_clips": ({"pixel_values_videos": torch.zeros(0, 3, 3, 40, 72)}, "0 clips .*expected at least 1 clip"),
    "no_frames": ({"pixel_values_videos": torch.zeros(2, 0, 3, 40, 72)}, "0 frames .*expected at least 1"),
    "too_small": ({"pixel_values_videos": torch.zeros(2, 3, 3, 31, 72)}, "31x72 pixels, expected .*32x32.*Resize"),
    "valid_hole": (PIXELS | {"frame_valid": torch.tensor([[True, False, True]] * 2)}, "padding is not at the end"),
    "valid_none": (PIXELS | {"frame_valid": zeros(2, 3, dtype=torch.bool)}, "at least one per clip"),
    "valid_shape": (PIXELS | {"frame_valid": torch.ones(2, 4)}, r"\(2, 4\), expected \(2, 3\)"),
    "labels_frames": (PIXELS | {"trajectory_labels": zeros(2, 4, 10, 18)}, r"\(2, 4, 10, 18\), expected \(2, 3,"),
    "labels_flat": (PIXELS | {"trajectory_labels": zeros(2, 540)}, r"\(2, 540\), expected \(2, 3, height, width\)"),
    "labels_too_many": (PIXELS | {"trajectory_labels": zeros(2, 3, 10, 18) + 6}, "from 6 to 6, .*-1 .* to 5.*relabel"),
    "labels_255": (PIXELS | {"trajectory_labels": zeros(2, 3, 10, 18, dtype=torch.uint8) + 255}, "255.*expected -1"),
    "labels_negative": (PIXELS | {"trajectory_labels": zeros(2, 3, 10, 18) - 2}, "from -2 to -2, expected -1"),
    "labels_float": (PIXELS | {"trajectory_labels": torch.zeros(2, 3, 10, 18)}, "float32, expected .*integers"),
    "labels_and_ids": (
        PIXELS | {"trajectory_labels": zeros(2, 3, 10, 18), "trajectory_ids": zeros(2, 3, 10, 18)},
        "expected one of them",
    ),
    "ids_too_many": (
        PIXELS | {"trajectory_ids": zeros(2, 3, 10, 18) + 6},
        "from 6 to 6, expected -1 .* to 5.*relabel",
    ),
    "ids_negative": (PIXELS | {"trajectory_ids": zeros(2, 3, 10, 18) - 2}, "from -2 to -2, expected -1"),
    "ids_shape": (PIXELS | {"trajectory_ids": zeros(3, 10, 18)}, r"\(3, 10, 18\), expected \(2, 3, height, width\)"),
    "ids_float": (PIXELS | {"trajectory_ids": torch.zeros(2, 3, 10, 18)}, "float32, expected .*integers"),
    "features_without_grid": (
        {"patch_features": torch.zeros(2, 60, 48)},
        r"without patch_grid, expected their \(T, H, W\)",
    ),
    "features_grid": (FEATURES | {"patch_grid": (3, 4, 6)}, r"\(2, 60, 48\), expected \(2, 72, 48\)"),
    "features_flat_grid": (FEATURES | {"patch_grid": (12, 5)}, r"patch_grid.*\(12, 5\), expected .*\(T, H, W\)"),
    "features_negative_grid": (FEATURES | {"patch_grid": (3, -4, -5)}, r"patch_grid.*\(3, -4, -5\), expected"),
    "features_no_frames": ({"patch_features": torch.zeros(2, 0, 48), "patch_grid": (0, 4, 5)}, "patch_grid.*expected"),
    "features_width": (
        FEATURES | {"patch_features": torch.zeros(2, 60, 40)},
        r"\(2, 60, 40\), expected \(2, 60, 48\)",
    ),
    "features_type": (FEATURES | {"patch_features": zeros(2, 60, 48)}, "int64, expected floating-point"),
    "features_frames": (
        PIXELS | {"patch_features": torch.zeros(2, 40, 48), "patch_grid": (2, 4, 5)},
        "3 frames with .* 2 frames, expected as many clips",
    ),
    "features_clips": (
        PIXELS | {"patch_features": torch.zeros(1, 60, 48), "patch_grid": (3, 4, 5)},
        "2 clips .* 1 clips .*expected as many clips",
    ),
    "too_many_tokens": (PIXELS | {"tokens_per_trajectory": 3}, "tokens_per_trajectory=3, expected 1 to 2"),
    "no_tokens": (PIXELS | {"tokens_per_trajectory": 0}, "tokens_per_trajectory=0, expected 1 to 2"),
    "misspelt": (PIXELS | {"trajectory_label": zeros(2, 3, 10, 18)}, "no `trajectory_label`.*`trajectory_labels`"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_says_what_was_expected(tiny_config, case):
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=message):
        build(tiny_config)(**inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision(tiny_config, dtype):
    model = build(tiny_config)
    features = torch.randn(2, 60, 48).to(dtype)
    found, expected = (model(patch_features=given, patch_grid=(3, 4, 5)) for given in (features, features.float()))
    assert_outputs_close(found, expected)


def test_keywords_of_other_models_are_no_misspellings(tiny_config, clips):
    outputs = build(tiny_config)(clips, output_attentions=False, output_hidden_states=False, use_cache=False)
    assert outputs.trajectory_embeds is not None


def test_features_of_another_width_need_their_features(tiny_config, clips):
    model = build(changed(tiny_config, encoder_input_size=24))
    with pytest.raises(ValueError, match=r"got no patch_features, expected features of width 24"):
        model(clips)
    with pytest.raises(ValueError, match=r"patch_features of width 24 alone, expected .*pixel_values_videos"):
        model(patch_features=torch.zeros(2, 60, 24), patch_grid=(3, 4, 5))
    with pytest.raises(ValueError, match=r"expected .*encoder_input_size"):
        model.tokenize_long_video(lambda first, last: clips[:1, first:last], 5)


def test_high_resolution_needs_its_head(tiny_config, clips):
    with pytest.raises(ValueError, match=r"output_high_res=True, expected .*high_res_factor"):
        build(changed(tiny_config, high_res_factor=None))(clips, output_high_res=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(tiny_config, clips, labels, dtype):
    model, labels = build(tiny_config), labels.clamp(min=0)
    found, expected = (model(clips, trajectory_labels=given).loss for given in (labels.to(dtype), labels))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("read_frames", "num_frames", "message"),
    [
        (lambda first, last: torch.zeros(1, last - first, 3, 40, 72), 0, "num_frames=0, expected at least 1"),
        (lambda first, last: torch.zeros(2, last - first, 3, 40, 72), 5, "2 clips, .*expected 1 clip"),
        (lambda first, last: torch.zeros(1, min(last, 3) - first, 3, 40, 72), 5, "expected .*frames"),
    ],
    ids=["no_frames", "two_clips", "shorter_than_told"],
)
def test_a_bad_long_video_says_what_was_expected(tiny_config, read_frames, num_frames, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_config).tokenize_long_video(read_frames, num_frames)


def test_an_unknown_feature_cache_is_named(tiny_config, clips):
    with pytest.raises(ValueError, match="feature_cache='full', expected"):
        build(tiny_config).tokenize_long_video(lambda first, last: clips[:1, first:last], 5, feature_cache="full")


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"bert.*expected .*trajtok"):
        TrajTokModel.from_pretrained(tmp_path)
