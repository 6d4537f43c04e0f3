"""Our numbers are the original's: every golden tensor of the segmenter, the tokenizer and the losses.

In:   golden files (see README.md), found by name; sizes and settings are read from them
Out:  agreement within 1e-4, identical assignments and masks, and weights that convert back bit for bit
"""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from modeling_trajtok import TrajTokModel
from modeling_trajtok.convert_official_checkpoint import to_official, to_ours
from modeling_trajtok.losses_trajtok import align_logits, dice_loss, label_masks, match_labels, pixel_loss

FIXTURES = Path(__file__).parent / "fixtures"
BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2].parent / "shared" / "goldens"
REQUIRED = {
    "segmenter": ("segmenter_low_res", "segmenter_high_res", "segmenter_rope3d"),
    "released_segmenter": ("released_segmenter",),
    "tokenizer": (
        "tokenizer",
        "tokenizer_multi",
        "tokenizer_mean_traj",
        "tokenizer_rope3d",
        "tokenizer_no_latent",
        "tokenizer_external_features",
    ),
    "losses": ("losses",),
    "clip": ("clip_eager", "clip_sdpa"),
    "vlm": ("vlm_connector",),
}
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def goldens_folder() -> Path:
    """Where the environment says, else beside the repository, else the few files inside it."""
    if named := os.environ.get("TRAJTOK_PARITY_DIR"):
        return Path(named)
    return BESIDE_THE_REPOSITORY if BESIDE_THE_REPOSITORY.is_dir() else FIXTURES


def case_names(*kinds: str) -> list[str]:
    """The required cases and whatever else of these kinds lies in the folders."""
    names = set()
    for kind in kinds:
        names |= set(REQUIRED[kind])
        names |= {path.stem for folder in (goldens_folder(), FIXTURES) for path in folder.glob(f"{kind}*.safetensors")}
    return sorted(names)


class Golden(NamedTuple):
    """One file: tensors by name, and the original's configuration."""

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    meta: dict


def load_golden(name: str) -> Golden:
    """Read a golden file; a missing one fails in CI and is skipped elsewhere."""
    # In CI nothing stands in for a file that the chosen folder should hold.
    folders = [goldens_folder()] if os.environ.get("CI") else [goldens_folder(), FIXTURES]
    path = next(
        (folder / f"{name}.safetensors" for folder in folders if (folder / f"{name}.safetensors").is_file()), None
    )
    if path is None:
        message = f"golden {name}.safetensors is not in {folders[0]}; set TRAJTOK_PARITY_DIR to the folder that has it"
        if os.environ.get("CI") or "TRAJTOK_PARITY_DIR" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        meta = json.loads(file.metadata()["meta"])
    parts = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("weights/", "inputs/", "outputs/")
    )
    return Golden(*parts, meta)


def untold_by_shapes(meta: dict) -> dict[str, str]:
    """The two settings of the original that leave no trace in the weights."""
    adds_mean = meta.get("tokenizer", {}).get("add_mean_traj", meta["traj_model"].get("add_mean_traj"))
    settings = {"feature_fusion": meta["backbone"]["backbone_pool"]}
    return settings | ({"encoder_queries": "latents_and_mean"} if adds_mean else {})


def grid_of_features(patch_features: Tensor, video: Tensor) -> tuple[int, int, int]:
    """(T, H, W) of given features: as many frames as the video, and its aspect ratio."""
    frames, height_px, width_px = (video.shape[axis] for axis in (1, 3, 4))
    per_frame = patch_features.shape[1] // frames
    height = round((per_frame * height_px / width_px) ** 0.5)
    return frames, height, per_frame // height


def build(golden: Golden, attention: str):
    model_class, config, state, _ = to_ours(golden.weights, **untold_by_shapes(golden.meta))
    model = model_class._from_config(config, attn_implementation=attention).eval()
    model.load_state_dict(state, strict=True)
    # Two clips share a block: without gradients, one frame of each is in flight.
    model.config.frames_per_block = 2
    return model


def assert_same(found: Tensor, expected: Tensor) -> None:
    if expected.is_floating_point():
        torch.testing.assert_close(found.detach(), expected, **TOLERANCE)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", case_names("segmenter", "released_segmenter"))
def test_segmenter(name, attention, in_blocks):
    golden = load_golden(name)
    model = build(golden, attention)
    with torch.no_grad() if in_blocks else nullcontext():
        outputs = model(golden.inputs["video"], output_high_res="assignment_logits_high_res" in golden.outputs)
    compared = [key for key in golden.outputs if key != "min_margin"]
    assert "assignment_logits" in compared
    for key in compared:
        assert_same(outputs[key], golden.outputs[key])
    assert torch.equal(outputs.trajectory_ids.flatten(1), golden.outputs["assignment_logits"].argmax(dim=-1))


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", case_names("tokenizer"))
def test_tokenizer(name, attention, in_blocks):
    golden = load_golden(name)
    model = build(golden, attention)
    inputs = {"pixel_values_videos": golden.inputs["video"]}
    if "patch_features" in golden.inputs:
        inputs["patch_features"] = golden.inputs["patch_features"]
        inputs["patch_grid"] = grid_of_features(inputs["patch_features"], golden.inputs["video"])
    levels = [int(key.rpartition("level")[2]) for key in golden.outputs if key.startswith("trajectory_tokens_level")]
    assert levels
    for level in levels:
        with torch.no_grad() if in_blocks else nullcontext():
            outputs = model(**inputs, tokens_per_trajectory=2**level)
        assert_same(outputs.trajectory_embeds, golden.outputs[f"trajectory_tokens_level{level}"])
        assert_same(outputs.token_valid, golden.outputs[f"trajectory_mask_level{level}"])
        assert_same(outputs.assignment_logits, golden.outputs["assignment_logits"])
        assert torch.equal(outputs.trajectory_ids.flatten(1), golden.outputs["assignment_logits"].argmax(dim=-1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", case_names("tokenizer"))
def test_tokenizer_on_a_long_video(name, attention):
    golden = load_golden(name)
    if "patch_features" in golden.inputs:
        return  # tokenize_long_video computes the features itself
    model = build(golden, attention)
    for clip, video in enumerate(golden.inputs["video"].unsqueeze(1)):
        for key in (key for key in golden.outputs if key.startswith("trajectory_tokens_level")):
            level = int(key.rpartition("level")[2])
            outputs = model.tokenize_long_video(
                lambda first, last, video=video: video[:, first:last], video.shape[1], tokens_per_trajectory=2**level
            )
            assert_same(outputs.trajectory_embeds[0], golden.outputs[key][clip])
            assert_same(outputs.token_valid[0], golden.outputs[f"trajectory_mask_level{level}"][clip])


@pytest.mark.parametrize("in_blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", case_names("vlm"))
def test_vlm_grouping(name, attention, in_blocks):
    golden = load_golden(name)
    model = build(golden, attention)
    video, features = golden.inputs["video"], golden.inputs["vision_features"]
    with torch.no_grad() if in_blocks else nullcontext():
        outputs = model(video, features, grid_of_features(features, video))
    assert_same(outputs.last_hidden_state, golden.outputs["pooled"])
    assert_same(outputs.trajectory_embeds, golden.outputs["projected"])
    for key in ("assignment_logits", "trajectory_queries"):
        assert_same(outputs.trajtok_output[key], golden.outputs[key])


@pytest.mark.parametrize("name", case_names("segmenter", "released_segmenter", "tokenizer", "vlm"))
def test_weights_convert_back_bit_for_bit(name):
    golden = load_golden(name)
    model = build(golden, "sdpa")
    back = to_official(model)
    expected = golden.weights
    if not isinstance(model, TrajTokModel) and any(key.startswith("vision_encoder.") for key in expected):
        # The rest of the released file belongs to the pretraining code; the converter lists it as unused.
        expected = {
            key.removeprefix("vision_encoder."): value
            for key, value in expected.items()
            if key.startswith("vision_encoder.")
        }
    assert back.keys() == expected.keys()
    assert all(back[key].dtype == expected[key].dtype and torch.equal(back[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", case_names("released_segmenter"))
def test_every_key_of_the_released_file_is_accounted_for(name):
    golden = load_golden(name)
    _, _, converted, ignored = to_ours(golden.weights)
    # k_proj and v_proj come from one to_kv; nothing else is split or merged.
    assert len(golden.weights) == len(converted) - sum("v_proj" in key for key in converted) + len(ignored)
    assert {key for key in ignored if not key.startswith("vision_encoder.")} == {
        key for key in golden.weights if not key.startswith("vision_encoder.")
    }


@pytest.mark.parametrize("name", case_names("losses"))
def test_losses(name):
    golden = load_golden(name)
    logits, labels, valid = (golden.inputs[key] for key in ("logits", "labels", "valid"))
    masks = label_masks(labels, logits.shape[2])
    matching = match_labels(logits, masks, cost="iou", label_valid=valid)
    assert torch.equal(matching, golden.outputs["permutation"])
    aligned = align_logits(logits, matching)
    assert_same(dice_loss(aligned, masks, pooling="batch"), golden.outputs["dice"])
    assert_same(pixel_loss(aligned, masks, pooling="batch"), golden.outputs["focal"])
