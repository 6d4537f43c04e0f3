"""TrajAdapter: any backbone's patches are found on their grid, grouped, pooled and classified; it stays frozen."""

import json
import os

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    DeiTForImageClassificationWithTeacher,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
    VivitForVideoClassification,
    pipeline,
)

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajAdapterModel,
    TrajTokModel,
    TrajTokVideoProcessor,
)
from modeling_trajtok.patch_backbone import PatchBackbone

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WITH_MLP = {**VIT, "intermediate_size": 32}
FIXED = {**WITH_MLP, "image_size": 64, "patch_size": 16, "num_frames": 4}

# Type, its settings, tokens in front of the patches, the patch's frames, rows and columns in px.
BACKBONES = {
    "dinov2": ({**VIT, "image_size": 56, "patch_size": 8}, 1, (1, 8, 8)),
    "dinov2_with_registers": ({**VIT, "image_size": 56, "patch_size": 8}, 5, (1, 8, 8)),
    "dinov3_vit": ({**WITH_MLP, "image_size": 64, "patch_size": 8, "num_register_tokens": 3}, 4, (1, 8, 8)),
    "dinov3_convnext": ({"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}, 1, (1, 32, 32)),
    "siglip_vision_model": ({**WITH_MLP, "image_size": 64, "patch_size": 16}, 0, (1, 16, 16)),
    "siglip2_vision_model": ({**WITH_MLP, "num_patches": 16, "patch_size": 16}, 0, (1, 16, 16)),
    "clip_vision_model": ({**WITH_MLP, "image_size": 64, "patch_size": 16}, 1, (1, 16, 16)),
    "swin": ({"image_size": 64, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]}, 0, (1, 8, 8)),
    "videomae": ({**FIXED, "tubelet_size": 2}, 0, (2, 16, 16)),
    "vjepa2": (
        {**VIT, "mlp_ratio": 1, "crop_size": 64, "frames_per_clip": 8, "pred_hidden_size": 24,
         "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}, 0, (2, 16, 16),
    ),
    "vivit": ({**WITH_MLP, "image_size": 64, "num_frames": 4, "tubelet_size": [2, 16, 16]}, 1, (2, 16, 16)),
    "timesformer": (FIXED, 1, (1, 16, 16)),
    "videoprism_vision_model": (
        {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_spatial_layers": 1,
         "num_temporal_layers": 1, "image_size": 72, "num_frames": 4}, 0, (1, 18, 18),
    ),
}  # fmt: skip
TRAJTOK = {
    "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 16], "layer_scale_init_value": 0.5},
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_trajectories": 6,
    "num_encoder_layers": 1,
    "initializer_range": 0.2,
    "initial_logit_scale": 10.0,
}


def config_of(kind: str, **settings) -> TrajAdapterConfig:
    fields = {"trajtok_config": TRAJTOK, "num_pooler_heads": 3, "num_labels": 3, **settings}
    return TrajAdapterConfig(backbone_config=AutoConfig.for_model(kind, **BACKBONES[kind][0]), **fields)


def classifier(kind: str = "dinov2", **settings) -> TrajAdapterForVideoClassification:
    torch.manual_seed(0)
    return TrajAdapterForVideoClassification(config_of(kind, **settings)).eval()


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(2, 8, 3, 64, 96, generator=torch.Generator().manual_seed(1))


# --- the grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_patch_is_where_its_pixels_are(kind, clips):
    """A change of the pixels of one patch changes the features at its place on the grid most."""
    torch.manual_seed(0)
    config = config_of(kind)
    backbone = PatchBackbone(config)
    _, num_prefix, (frames_px, rows_px, columns_px) = BACKBONES[kind]
    if config.resized_hw:
        clips = torch.randn(2, 8, 3, *config.resized_hw)
    before = backbone(clips)
    grid = before.grid
    assert tuple(grid) == (8 // frames_px, clips.shape[3] // rows_px, clips.shape[4] // columns_px)
    assert before.patches.shape == (2, grid.num_patches, 24)
    [layout] = backbone._layouts.values()
    assert layout.num_prefix == num_prefix and (before.cls is not None) == (num_prefix > 0)
    for t, h, w in [(0, 0, grid.w - 1), (grid.t - 1, grid.h - 1, 0), (grid.t // 2, grid.h // 2, grid.w // 2)]:
        changed = clips.clone()
        rows, columns = slice(h * rows_px, (h + 1) * rows_px), slice(w * columns_px, (w + 1) * columns_px)
        changed[1, t * frames_px : (t + 1) * frames_px, :, rows, columns] += 1.0
        change = (backbone(changed).patches - before.patches).norm(dim=-1)
        assert change[0].max() < 1e-5
        assert int(change[1].argmax()) == (t * grid.h + h) * grid.w + w


def test_features_without_a_grid_are_refused(clips):
    backbone = PatchBackbone(config_of("clip_vision_model"))
    backbone.config.backbone_config.patch_size = 13
    with pytest.raises(ValueError, match="CLIPVisionModel gives 25 tokens of width 24 for 1 frames of 64x96 px"):
        backbone(clips)


def test_frames_that_a_backbone_cannot_read_are_refused(clips):
    config = config_of("videomae", backbone_size_px=(64, 96))
    with pytest.raises(ValueError, match=r"VideoMAEModel cannot read 4 frames of 64x96 px.*Set backbone_size_px"):
        PatchBackbone(config)(clips)


def test_a_model_of_images_and_text_is_no_backbone():
    with pytest.raises(ValueError, match="type clip with a text part, expected that of its vision tower"):
        TrajAdapterConfig(backbone_config=CLIPConfig())


# --- the adapter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BACKBONES)
def test_heads_learn_and_backbones_do_not(kind, clips):
    model = classifier(kind).train()
    model(clips, labels=torch.tensor([0, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith("adapter.backbone.") or ".segmenter." in name
        assert (parameter.grad is None) == frozen, name
    assert not any(part.training for part in model.adapter.backbone.model.modules())


def test_the_task_trains_the_segmenter_on_request(clips, caplog):
    trajtok = {**TRAJTOK, "encoder_queries": "latents_and_mean"}
    model = classifier(freeze_segmenter=False, trajtok_config=trajtok).train()
    model(clips, labels=torch.tensor([0, 2])).loss.backward()
    gradients = [p.grad.abs().max() for n, p in model.named_parameters() if "trajectory_head" in n]
    assert gradients and min(gradients) > 0
    assert "no gradient" not in caplog.text
    labels = torch.randint(0, 3, (2, 8, 64, 96))
    plain, taught = (model(clips, labels=torch.tensor([0, 2]), trajectory_labels=given) for given in (None, labels))
    assert taught.loss > plain.loss
    # Hard assignments pass no gradient on, which is told.
    model = classifier(freeze_segmenter=False).train()
    assert "no gradient" in caplog.text and "latents_and_mean" in caplog.text
    model(clips, labels=torch.tensor([0, 2])).loss.backward()
    assert all(p.grad is None for n, p in model.named_parameters() if ".segmenter." in n)


@pytest.mark.parametrize("probe", ["trajectories", "mean"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values_videos": torch.zeros(2, 3, 64, 64)}, r"shape \(2, 3, 64, 64\), expected \(clips, frames, 3"),
        ({"pixel_values_videos": torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)}, "floating-point pixels"),
        ({"frame_valid": torch.tensor([[True, False, True, True]] * 2)}, "padding is not at the end"),
        ({"frame_valid": torch.zeros(2, 4, dtype=torch.bool)}, "at least one per clip"),
        ({"frame_valid": torch.ones(2, 3, dtype=torch.bool)}, r"frame_valid of shape \(2, 3\), expected \(2, 4\)"),
        ({"frame_vaild": None}, "did you mean `frame_valid`"),
        ({"trajectory_label": None}, "did you mean `trajectory_labels`"),
    ],
)
def test_bad_inputs_are_named_for_every_probe(probe, change, message, clips):
    model = classifier(probe=probe)
    with pytest.raises(ValueError, match=message):
        model(**{"pixel_values_videos": clips[:, :4], **change})


def test_a_backbone_that_leaves_out_patches_at_random_is_refused(clips):
    config = AutoConfig.for_model("vit_mae", **WITH_MLP, image_size=64, patch_size=8)
    backbone = PatchBackbone(TrajAdapterConfig(backbone_config=config, trajtok_config=TRAJTOK))
    with pytest.raises(ValueError, match="ViTMAEModel gives other states when it sees the same"):
        backbone(clips[..., :64])


def test_calls_are_whole_patches():
    with pytest.raises(
        (ValueError, StrictDataclassError),
        match="got 5 frames for a call of the backbone, expected a multiple of the 2",
    ):
        config_of("vjepa2", backbone_num_frames=5)


def test_a_backbone_without_a_width_is_refused():
    with pytest.raises(ValueError, match="class EfficientNetConfig, which names neither hidden_size"):
        TrajAdapterConfig(backbone_config=AutoConfig.for_model("efficientnet"))


@pytest.mark.parametrize("kind", ["dinov2", "timesformer", "videomae", "vjepa2"])
@pytest.mark.parametrize("probe", ["trajectories", "attentive", "mean"])
def test_a_padded_clip_is_as_the_clip_alone(kind, probe, clips):
    """Also where the number of frames does not suit the backbone."""
    model, length = classifier(kind, probe=probe), 6
    alone = model(clips[:1, :length]).logits
    padded = clips.clone()
    padded[0, length:] = padded[0, length - 1]
    frame_valid = torch.ones(2, 8, dtype=torch.bool)
    frame_valid[0, length:] = False
    torch.testing.assert_close(model(padded, frame_valid).logits[:1], alone, **CLOSE)


def test_patches_of_several_frames_go_where_most_of_their_frames_go(clips):
    """A tubelet belongs to the trajectory with the largest mean logit over its frames."""
    model = classifier("videomae").adapter
    output = model(clips)
    features = model.backbone(clips)
    found = model.trajtok(clips, patch_features=features.patches, patch_grid=features.grid)
    logits = found.assignment_logits.view(2, 4, 2, 16, 24, 6).mean(dim=2).flatten(0, 1).permute(0, 3, 1, 2)
    ids = torch.nn.functional.interpolate(logits, size=(4, 4), mode="bilinear").argmax(dim=1).view(2, 4, 4, 4)
    given = model(clips, trajectory_ids=ids)
    torch.testing.assert_close(given.last_hidden_state, output.last_hidden_state, **CLOSE)
    assert output.trajectory_ids.shape == (2, 8, 16, 24)
    assert torch.equal(given.token_valid, output.token_valid)


def test_tokens_made_before_give_the_same(clips):
    model = classifier()
    output = model(clips, labels=torch.tensor([0, 2]))
    again = model(
        trajectory_embeds=output.last_hidden_state, token_valid=output.token_valid, labels=torch.tensor([0, 2])
    )
    torch.testing.assert_close(again.logits, output.logits)
    torch.testing.assert_close(again.loss, output.loss)
    with pytest.raises(ValueError, match=r"\(2, 6, 23\), expected \(B, K\*L, 24\)"):
        model(trajectory_embeds=output.last_hidden_state[..., 1:])
    with pytest.raises(ValueError, match="expected one of them"):
        model(clips, trajectory_embeds=output.last_hidden_state)
    with pytest.raises(ValueError, match="no input"):
        model()


def test_probes_read_the_same_features(clips):
    for probe in ("mean", "cls"):
        model = classifier(probe=probe)
        features = model.adapter.backbone(clips)
        expected = features.patches.mean(dim=1) if probe == "mean" else features.cls
        torch.testing.assert_close(model.adapter(clips).pooler_output, model.adapter.norm(expected), **CLOSE)
        assert not any("trajtok" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="SiglipVisionModel has no CLS token"):
        classifier("siglip_vision_model", probe="cls")(clips)


@pytest.mark.parametrize(
    ("kind", "settings", "size", "expected"),
    [
        ("swin", BACKBONES["swin"][0], (60, 60), (8, 8)),  # 49 patches and 15 others would be as many tokens
        ("swin", BACKBONES["swin"][0], (60, 64), (8, 8)),
        ("resnet", {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}, (48, 80), (2, 3)),
        ("dinov2", BACKBONES["dinov2"][0], (60, 60), (7, 7)),
    ],
)
def test_images_that_patches_do_not_divide(kind, settings, size, expected):
    torch.manual_seed(0)
    backbone = PatchBackbone(
        TrajAdapterConfig(backbone_config=AutoConfig.for_model(kind, **settings), trajtok_config=TRAJTOK)
    )
    clips = torch.randn(1, 1, 3, *size)
    before = backbone(clips)
    assert tuple(before.grid) == (1, *expected) and (before.cls is not None) == (kind == "dinov2")
    if kind != "resnet":  # whose patches see all
        clips[..., 17:23, 41:47] += 1.0
        change = (backbone(clips).patches - before.patches).norm(dim=-1)
        assert int(change.argmax()) == 2 * expected[1] + 5


@pytest.mark.parametrize("probe", ["trajectories", "attentive"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(probe, reentrant, clips):
    """Also where nothing that the pooling reads asks for a gradient."""
    model, gradients = classifier(probe=probe).train(), []
    for checkpoints in (False, True):
        if checkpoints:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            assert model.adapter.pooler.gradient_checkpointing
        model.zero_grad()
        model(clips[:, :2], labels=torch.tensor([0, 2])).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and "adapter.pooler.query" in gradients[0]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("probe", ["trajectories", "mean"])
def test_the_layers_of_the_backbone_are_recorded(probe, clips):
    model = classifier(probe=probe)
    output = model(clips, output_hidden_states=True)
    assert {tuple(state.shape) for state in output.hidden_states} == {(2 * 8, 1 + 96, 24)}
    assert len(output.hidden_states) == 3 and output.attentions is None
    patches = model.adapter.backbone.model.layernorm(output.hidden_states[-1])[:, 1:].reshape(2, -1, 24)
    torch.testing.assert_close(model.adapter.backbone(clips).patches, patches)
    model.set_attn_implementation("eager")
    assert model.adapter.backbone.model.config._attn_implementation == "eager"
    assert model(clips, output_attentions=True).attentions[-1].shape == (16, 2, 97, 97)
    assert model.get_input_embeddings() is model.adapter.backbone.model.get_input_embeddings()
    frame_valid = torch.arange(8).expand(2, -1) < 5
    with pytest.raises(ValueError, match="hidden_states of clips with padded frames"):
        model(clips, frame_valid, output_hidden_states=True)


def test_an_attention_implementation_reaches_every_part():
    config = config_of("dinov2", attn_implementation="eager")
    model = TrajAdapterModel(config)
    for part in (model, model.backbone.model, model.trajtok, model.trajtok.segmenter.perceiver.layers[0].attention):
        assert part.config._attn_implementation == "eager"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def backbone_folder(tmp_path):
    """A model of images and text with its preprocessor, as CLIP is published."""
    torch.manual_seed(0)
    vision = {**WITH_MLP, "image_size": 64, "patch_size": 16}
    text = {**WITH_MLP, "vocab_size": 20, "max_position_embeddings": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def adapter_on(folder, **settings) -> TrajAdapterForVideoClassification:
    return TrajAdapterForVideoClassification.from_components(
        backbone=str(folder), trajtok_config=TRAJTOK, num_pooler_heads=3, num_labels=3, **settings
    ).eval()


def test_a_backbone_is_named_and_not_saved_again(backbone_folder, tmp_path, clips):
    model = adapter_on(backbone_folder)
    assert model.config.backbone_image_mean == [0.4, 0.5, 0.6] and model.config.backbone_image_std == [0.2, 0.3, 0.4]
    reference = CLIPModel.from_pretrained(backbone_folder).vision_model.state_dict()
    assert all(
        torch.equal(value, reference[name]) for name, value in model.adapter.backbone.model.state_dict().items()
    )
    expected = model(clips).logits
    for auto, folder in ((AutoModelForVideoClassification, "a"), (TrajAdapterForVideoClassification, "b")):
        model.save_pretrained(tmp_path / folder)
        assert not any(".backbone.model" in key for key in load_file(tmp_path / folder / "model.safetensors"))
        model = auto.from_pretrained(tmp_path / folder).eval()
        torch.testing.assert_close(model(clips).logits, expected)
        assert not any(parameter.requires_grad for parameter in model.adapter.backbone.parameters())
    features = AutoModel.from_pretrained(tmp_path / "a").eval()
    assert isinstance(features, TrajAdapterModel)
    torch.testing.assert_close(features(clips).pooler_output, model.adapter(clips).pooler_output)
    backbone_folder.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"cannot load its frozen backbone .*Set config.backbone_checkpoint"):
        TrajAdapterForVideoClassification.from_pretrained(tmp_path / "a")


def test_a_preprocessor_that_scales_otherwise_is_understood(backbone_folder, clips):
    """ViViT's scales RGB to -1 ... 1 before it normalises; the backbone gets the same from us."""
    settings = json.loads((backbone_folder / "preprocessor_config.json").read_text())
    settings |= {"rescale_factor": 1 / 127.5, "offset": True}
    (backbone_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    config = adapter_on(backbone_folder).config
    mean, std = torch.tensor(config.backbone_image_mean), torch.tensor(config.backbone_image_std)
    rgb = torch.rand(5, 3)
    expected = ((rgb * 255 / 127.5 - 1) - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.3, 0.4])
    torch.testing.assert_close((rgb - mean) / std, expected)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1 / 255),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0.5, 0.5),
        ({"image_mean": 0.5, "image_std": 0.5}, 0.5, 0.5),
        (
            {"video_processor_type": "VivitVideoProcessor", "rescale_factor": 1 / 127.5, "image_mean": [0.5] * 3,
             "image_std": [0.5] * 3}, 0.75, 0.25,
        ),
    ],
)  # fmt: skip
def test_a_preprocessor_of_videos_is_read(settings, mean, std, backbone_folder):
    (backbone_folder / "preprocessor_config.json").unlink()
    (backbone_folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    config = adapter_on(backbone_folder).config
    assert config.backbone_image_mean == pytest.approx([mean] * 3)
    assert config.backbone_image_std == pytest.approx([std] * 3)


def test_a_missing_preprocessor_is_told(backbone_folder, caplog):
    (backbone_folder / "preprocessor_config.json").unlink()
    with caplog.at_level("WARNING"):
        config = adapter_on(backbone_folder).config
    assert "backbone_image_mean" in caplog.text and config.backbone_image_mean == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("kind", ["vit", "deit", "vivit"])
def test_classifiers_lend_their_backbone(kind, tmp_path):
    """They are saved without the pooling head that AutoModel would add."""
    settings = BACKBONES["vivit"][0] if kind == "vivit" else {**WITH_MLP, "image_size": 64, "patch_size": 16}
    classes = {"vit": ViTForImageClassification, "deit": DeiTForImageClassificationWithTeacher}
    torch.manual_seed(0)
    whole = classes.get(kind, VivitForVideoClassification)(AutoConfig.for_model(kind, **settings))
    whole.save_pretrained(tmp_path)
    taken = adapter_on(tmp_path).adapter.backbone.model.state_dict()
    given = getattr(whole, kind).state_dict()
    assert given and all(torch.equal(taken[name], value) for name, value in given.items())


def test_a_whole_model_of_images_and_text_gives_its_vision_tower(backbone_folder, clips):
    whole = CLIPModel.from_pretrained(backbone_folder)
    model = TrajAdapterForVideoClassification.from_components(
        backbone=whole, trajtok_config=TRAJTOK, num_pooler_heads=3, num_labels=3
    ).eval()
    named = adapter_on(
        backbone_folder, backbone_image_mean=[0.485, 0.456, 0.406], backbone_image_std=[0.229, 0.224, 0.225]
    )
    found, expected = (one.adapter.backbone(clips).patches for one in (model, named))
    torch.testing.assert_close(found, expected)


def test_a_backbone_in_memory_is_saved_with_the_adapter(tmp_path, clips):
    model = classifier("dinov3_vit")
    model.save_pretrained(tmp_path)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(clips).logits, model(clips).logits)


def test_folders_hold_one_matrix_for_queries_keys_and_values(tmp_path, clips):
    """As PyTorch's MultiheadAttention does, which pools in the same way."""
    model = classifier()
    attention = model.adapter.pooler.attention
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            projection.bias.normal_()
    expected = model(clips).logits
    model.save_pretrained(tmp_path / "folder")
    state = load_file(tmp_path / "folder" / "model.safetensors")
    names = {key: key.removeprefix("adapter.pooler.attention.") for key in state if ".pooler.attention." in key}
    assert set(names.values()) == {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    reference = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    reference.load_state_dict({short: state[key] for key, short in names.items()})
    tokens = torch.randn(2, 5, 24)
    torch.testing.assert_close(attention(tokens[:, :1], tokens)[0], reference(tokens[:, :1], tokens, tokens)[0])

    # `Trainer` loads its best checkpoint into the model itself.
    loaded = classifier()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    loaded.load_state_dict(state)
    torch.testing.assert_close(loaded(clips).logits, expected)

    state["adapter.backbone.model.pooler.dense.weight"] = torch.zeros(24, 24)  # that nothing reads
    save_file(state, tmp_path / "folder" / "model.safetensors", metadata={"format": "pt"})
    model.save_pretrained(tmp_path / "apart", save_original_format=False)
    assert load_file(tmp_path / "apart" / "model.safetensors").keys() == model.state_dict().keys()
    for folder in ("folder", "apart"):
        for model_class in (TrajAdapterForVideoClassification, TrajAdapterModel):
            found, info = model_class.from_pretrained(tmp_path / folder, output_loading_info=True)
            assert not info["missing_keys"] and not info["mismatched_keys"]
            assert not [key for key in info["unexpected_keys"] if not key.startswith("classifier.")]
            if model_class is TrajAdapterForVideoClassification:
                torch.testing.assert_close(found.eval()(clips).logits, expected)
                found.save_pretrained(tmp_path / "again")
                again = load_file(tmp_path / "again" / "model.safetensors")
                assert "adapter.pooler.attention.in_proj_weight" in again or folder == "apart"
            else:
                pooled = found.eval()(clips).pooler_output
                torch.testing.assert_close(pooled, model.adapter(clips).pooler_output)


def test_the_segmenter_of_a_checkpoint_is_taken(backbone_folder, tmp_path, tiny_config):
    trajtok = TrajTokModel(tiny_config)
    trajtok.save_pretrained(tmp_path / "trajtok")
    model = TrajAdapterForVideoClassification.from_components(
        backbone=str(backbone_folder), trajtok=str(tmp_path / "trajtok"), num_pooler_heads=3
    )
    taken, given = model.adapter.trajtok.segmenter.state_dict(), trajtok.segmenter.state_dict()
    assert taken and all(torch.equal(value, given[name]) for name, value in taken.items())


def test_a_checkpoint_without_a_vision_model_is_refused(tmp_path):
    AutoModel.from_config(
        AutoConfig.for_model("clip_vision_model", **BACKBONES["clip_vision_model"][0])
    ).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="lacks weights of CLIPVisionModel"):
        adapter_on(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        adapter_on(tmp_path / "nowhere")


# --- in use ----------------------------------------------------------------------------------------------------------


def test_pipeline_for_fixed_classes(backbone_folder, tmp_path, shared_data):
    model = adapter_on(backbone_folder)
    model.config.id2label = {0: "walks", 1: "runs", 2: "jumps"}
    model.save_pretrained(tmp_path / "adapter")
    TrajTokVideoProcessor(size={"height": 64, "width": 96}, num_frames=4).save_pretrained(tmp_path / "adapter")
    classify = pipeline("video-classification", model=str(tmp_path / "adapter"))
    result = classify(str(shared_data / "clips" / "torchcodec" / "nasa_13013.mp4"))
    assert {entry["label"] for entry in result} == {"walks", "runs", "jumps"}
    assert sum(entry["score"] for entry in result) == pytest.approx(1.0)


class Squares(Dataset):
    """A bright square at the left or at the right."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[16:48, 32 * (index % 2) : 32 * (index % 2) + 32] = 200 + index % 50
        pixels = torch.from_numpy(np.asarray(Image.fromarray(frame), np.float32) / 127.5 - 1.0)
        return {"pixel_values_videos": pixels.permute(2, 0, 1).repeat(2, 1, 1, 1), "labels": index % 2}


def test_fine_tuning_code_for_videomae_works_as_it_is(tmp_path):
    """`Trainer` finds the labels by itself, judges by accuracy and keeps the best; pixels may have VideoMAE's name."""
    model = classifier("dinov2", num_labels=2, trajtok_config={**TRAJTOK, "track_embedding": True})

    def collate(rows):
        return {
            "pixel_values": torch.stack([row["pixel_values_videos"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=40,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=20,
        save_strategy="steps",
        save_steps=20,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )

    def compute_metrics(found):
        return {"accuracy": float((np.argmax(found.predictions, axis=1) == found.label_ids).mean())}

    trainer = Trainer(
        model,
        arguments,
        train_dataset=Squares(32),
        eval_dataset=Squares(9),
        data_collator=collate,
        compute_metrics=compute_metrics,
    )
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_accuracy"] == 1.0 and found["eval_loss"] < 0.5
    assert trainer.state.best_metric == 1.0
    assert trainer.predict(Squares(3)).predictions.shape == (3, 2)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "probe", "padded"),
    [("dinov2", "trajectories", True), ("dinov2", "cls", True), ("vjepa2", "attentive", False)],
)
def test_the_exported_model_takes_any_number_of_clips_and_frames(kind, probe, padded):
    model = classifier(kind, probe=probe)
    step = model.config.tubelet_frames
    inputs = {"pixel_values_videos": torch.randn(2, 4, 3, 64, 96)}
    longer = {"pixel_values_videos": torch.randn(3, 6, 3, 64, 96)}
    frames = step * torch.export.Dim("steps", min=2)
    if padded:
        inputs["frame_valid"] = torch.arange(4) < torch.tensor([[4], [2]])
        longer["frame_valid"] = torch.arange(6) < torch.tensor([[6], [3], [1]])
    if kind == "vjepa2":
        with pytest.raises(ValueError, match=r"has not been called with frames of 64x96 px.*once"):
            torch.export.export(model, (), inputs)
        model(longer["pixel_values_videos"])
        with pytest.raises(ValueError, match=r"sees whole clips.*without frame_valid"):
            torch.export.export(model, (), inputs | {"frame_valid": torch.ones(2, 4, dtype=torch.bool)})
    axes = {0: torch.export.Dim("clips"), 1: frames}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, axes)).module()
        for given in (inputs, longer):
            torch.testing.assert_close(exported(**given).logits, model(**given).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="PyTorch 2.11 writes ONNX that no runtime reads")
def test_it_converts_to_onnx():
    if not os.environ.get("CI"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    import onnxruntime

    model = classifier(trajtok_config=TRAJTOK | {"num_query_layers": 1})
    axes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames", min=2)}
    inputs = {"pixel_values_videos": torch.randn(2, 4, 3, 64, 96)}
    program = torch.onnx.export(
        model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, axes), dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for given in (inputs, {"pixel_values_videos": torch.randn(3, 7, 3, 64, 96)}):
        found = session.run(None, {name: value.numpy() for name, value in given.items()})
        torch.testing.assert_close(torch.from_numpy(found[0]), model(**given).logits, atol=1e-4, rtol=1e-4)
