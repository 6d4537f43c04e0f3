"""The converter, through real files: every key has its place, and a file that is not right is refused by name."""

import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokSegmenterModel, TrajTokVideoProcessor
from modeling_trajtok.convert_official_checkpoint import (
    CheckpointError,
    convert_file,
    main,
    read_official_file,
    to_official,
    to_ours,
)

SIZES = {
    "backbone_config": {"model_type": "dinov3_convnext", "depths": [1, 2, 1, 1], "hidden_sizes": [8, 12, 16, 20]},
    "hidden_size": 64,
    "num_attention_heads": 8,  # the original's number, which no shape tells
    "num_trajectories": 6,
    "num_query_layers": 2,
    "num_encoder_layers": 1,
    "mlp_ratio": 2,
    "max_tokens_per_trajectory": 4,
    "encoder_input_size": 96,
    "encoder_output_size": 40,
    "initializer_range": 0.2,
}
TOKENIZER, SEGMENTER = TrajTokModel, TrajTokSegmenterModel


def official_state(model_class=TOKENIZER, **fields) -> tuple[TrajTokModel, dict[str, torch.Tensor]]:
    """A model of ours and the same weights as the original would have stored them."""
    torch.manual_seed(0)
    model = model_class(TrajTokConfig(**(SIZES | fields))).eval()
    return model, {name: value.clone() for name, value in to_official(model).items()}


def assert_same_weights(found, expected) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["meta_pth", "module_pth", "bare_pth", "safetensors"])
def test_files_become_folders(kind, tmp_path):
    model, state = official_state()
    source = tmp_path / ("checkpoint.safetensors" if kind == "safetensors" else "checkpoint.pth")
    if kind == "safetensors":
        save_file(state, source)
    elif kind == "meta_pth":
        torch.save({"model": state, "meta": {"epoch": 3, "note": "plain values"}}, source)
    elif kind == "module_pth":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, source)
    else:
        torch.save(state, source)
    lines = []
    convert_file(source, tmp_path / "ours", lines.append)
    converted = TrajTokModel.from_pretrained(tmp_path / "ours")
    assert_same_weights(converted, model)
    TrajTokVideoProcessor.from_pretrained(tmp_path / "ours")
    assert "TrajTokModel" in lines[0] and any("backbone's `norm`" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("model_class", "fields"),
    [
        (TOKENIZER, {}),
        (TOKENIZER, {"query_positions": "grid", "encoder_positions": "grid", "hidden_size": 96}),
        (TOKENIZER, {"encoder_queries": "mean", "max_tokens_per_trajectory": 1}),
        (TOKENIZER, {"high_res_factor": 8, "encoder_input_size": 64}),
        (SEGMENTER, {"high_res_factor": None}),
        (SEGMENTER, {"high_res_factor": 1}),
        (SEGMENTER, {"high_res_factor": 2}),
    ],
)
def test_sizes_are_read_from_the_shapes(model_class, fields):
    model, state = official_state(model_class, **fields)
    found_class, config, converted, _ = to_ours(state)
    assert found_class is model_class
    own = {
        "matching": "iou",
        "label_resampling": "nearest",
        "loss_pooling": "batch",
        "auxiliary_loss_weight": 0.0,
        "initializer_range": 0.02,
    }
    if model_class is SEGMENTER:  # it has no encoder that could tell
        own |= {
            "num_encoder_layers": 2,
            "max_tokens_per_trajectory": 1,
            "encoder_input_size": 64,
            "encoder_output_size": 64,
        }
    assert config.to_dict() == model.config.to_dict() | own
    assert all(torch.equal(converted[name], value) for name, value in model.state_dict().items())


def test_settings_without_a_trace_are_options(tmp_path):
    _, state = official_state()
    torch.save(state, tmp_path / "checkpoint.pth")
    options = ["--encoder-queries", "latents_and_mean", "--feature-fusion", "last"]
    assert main([str(tmp_path / "checkpoint.pth"), str(tmp_path / "ours"), *options]) == 0
    config = TrajTokConfig.from_pretrained(tmp_path / "ours")
    assert (config.encoder_queries, config.feature_fusion) == ("latents_and_mean", "last")


@pytest.mark.parametrize("model_class", [TOKENIZER, SEGMENTER])
def test_there_and_back_on_the_command_line(model_class, tmp_path):
    _, state = official_state(model_class)
    torch.save({"model": state}, tmp_path / "theirs.pth")
    assert main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours")]) == 0
    assert main(["--reverse", str(tmp_path / "ours"), str(tmp_path / "back.safetensors")]) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_as_a_command(tmp_path):
    model, state = official_state()
    torch.save({"model": state}, tmp_path / "theirs.pth")
    command = [sys.executable, "-m", "modeling_trajtok.convert_official_checkpoint", "theirs.pth", "ours"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TrajTokModel" in done.stdout and "left out" in done.stdout
    assert_same_weights(TrajTokModel.from_pretrained(tmp_path / "ours"), model)


def test_unused_parts_of_the_released_file_are_left_out_with_a_reason():
    model, state = official_state(SEGMENTER)
    released = {f"vision_encoder.{name}": value for name, value in state.items()}
    released |= {"text_encoder.embeddings.word": torch.ones(3), "temp": torch.ones(()), "itm_head.bias": torch.ones(2)}
    found_class, _, converted, ignored = to_ours(released)
    assert found_class is TrajTokSegmenterModel
    assert all(torch.equal(converted[name], value) for name, value in model.state_dict().items())
    assert {"text_encoder.embeddings.word", "temp", "itm_head.bias"} <= ignored.keys() and all(ignored.values())


# --- what does not balance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["encoder_extra.weight", "segmenter.patch_encoder.proj.0.weight_g", "temp"])
def test_an_unknown_key_is_named(key):
    _, state = official_state()
    with pytest.raises(CheckpointError, match=f"unknown key `{key}`"):
        to_ours(state | {key: torch.ones(2)})


# Keys of each kind; the first ones tell a size, so a wrong size may show elsewhere first.
SIZE_KEYS = [
    "segmenter.trajectory_perceiver.latents",
    "segmenter.patch_encoder.backbone.downsample_layers.1.1.weight",
    "traj_feature_updater.norm_ctx.weight",
    "output_projector.weight",
]
KEYS = [
    "segmenter.patch_encoder.proj.2.bias",
    "segmenter.trajectory_perceiver.layers.0.1.up.weight",
    "segmenter.trajectory_perceiver.layers.1.0.to_kv.weight",
    "segmenter.trajectory_perceiver.layers.1.0.to_q.weight",
    "segmenter.patch_decoder_high_res.conv_up.5.weight",
    "segmenter.log_scale",
]


@pytest.mark.parametrize("key", SIZE_KEYS + KEYS)
def test_a_missing_key_is_named(key):
    _, state = official_state()
    del state[key]
    with pytest.raises(CheckpointError) as error:
        to_ours(state)
    assert key in str(error.value)


@pytest.mark.parametrize("change", ["flat", "longer", "scalar", "more_axes"])
@pytest.mark.parametrize("key", SIZE_KEYS + KEYS)
def test_a_misshapen_key_is_named(key, change):
    _, state = official_state()
    value = state[key]
    state[key] = {
        "flat": value.flatten() if value.dim() > 1 else value[None],
        "longer": torch.cat((value, value[:1])),
        "scalar": value.flatten()[0].clone(),
        "more_axes": value[None],
    }[change]
    with pytest.raises(CheckpointError) as error:
        to_ours(state)
    assert f"`{key}`" in str(error.value) or (change == "longer" and key in SIZE_KEYS)


@pytest.mark.parametrize("change", ["renamed", "more_axes"])
def test_no_change_of_any_key_passes_or_crashes(change):
    """Every key in turn: a `CheckpointError` each time."""
    _, state = official_state(num_query_layers=1)
    for key, value in state.items():
        broken = {f"{key}_renamed": value} if change == "renamed" else {key: value[None]}
        with pytest.raises(CheckpointError):
            to_ours({name: other for name, other in state.items() if name != key} | broken)
            pytest.fail(f"{key} was changed and nobody noticed")


@pytest.mark.parametrize("fields", [{"num_attention_heads": 4}, {"rotary_theta": 100.0}])
def test_what_the_original_cannot_run_is_not_converted_back(fields):
    model = TrajTokModel(TrajTokConfig(**(SIZES | fields)))
    (name, value), *_ = fields.items()
    with pytest.raises(CheckpointError, match=f"{name}={value}.* cannot be converted back"):
        to_official(model)


def test_other_rotary_frequencies_are_refused():
    _, state = official_state()
    key = "segmenter.trajectory_perceiver.layers.0.0.rotary_emb.freqs"
    with pytest.raises(CheckpointError, match=r"rotary_emb.freqs` are not the standard frequencies"):
        to_ours(state | {key: state[key] * 2})
    with pytest.raises(CheckpointError, match=r"rotary_emb.freqs` are not the standard frequencies"):
        to_ours(state | {key: torch.ones(7)})


def test_two_different_norms_under_two_names_are_refused():
    _, state = official_state()
    key = "segmenter.patch_encoder.backbone.norms.3.bias"
    with pytest.raises(CheckpointError, match=r"norms.3.bias` differs from the backbone's `norm.bias`"):
        to_ours(state | {key: state[key] + 1})


# --- what is not a checkpoint ----------------------------------------------------------------------------------------


class RunsCode:
    """Unpickling it creates the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_refused_and_not_run(tmp_path, capsys):
    _, state = official_state()
    trap = tmp_path / "executed"
    torch.save({"model": state, "optimizer": RunsCode(trap)}, tmp_path / "training.pth")
    assert main([str(tmp_path / "training.pth"), str(tmp_path / "ours")]) == 1
    error = capsys.readouterr().err
    assert "training.pth holds pickled objects besides tensors" in error
    assert 'torch.save({"model": torch.load("training.pth", weights_only=False)["model"]}' in error
    assert not trap.exists() and not (tmp_path / "ours").exists()
    with open(tmp_path / "training.pth", "rb") as file:
        assert b"RunsCode" not in file.read()  # the trap is a call of `open`, which any unpickler would make
    pickle.loads(pickle.dumps(RunsCode(trap)))
    assert trap.exists()


NOT_CHECKPOINTS = {
    "missing.pth": (None, "No file at .*missing.pth, expected"),
    "empty.pth": (b"", "empty.pth .*Is it complete"),
    "text.pth": (b"hello there", "text.pth .*PyTorch"),
    "page.pth": (b"<!DOCTYPE html><html>", "page.pth .*PyTorch"),
    "text.safetensors": (b"hello there, this is no header", "text.safetensors .*Is it complete"),
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(name, tmp_path):
    content, message = NOT_CHECKPOINTS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_official_file(tmp_path / name)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_a_truncated_file_is_refused_by_name(suffix, part, tmp_path):
    _, state = official_state()
    path = tmp_path / f"cut.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"cut\..* cannot be read as .*Is it complete"):
        read_official_file(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [torch.ones(3)],
        {},
        {"model": {}},
        {"model": torch.ones(3)},
        {"model": {"a": 1}},
        {1: torch.ones(2)},
    ],
    ids=["tensor", "list", "empty", "empty_model", "tensor_model", "plain_values", "numbered"],
)
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth holds no state dict, expected tensors by name"):
        read_official_file(tmp_path / "other.pth")


def test_the_weights_of_another_model_are_refused(tmp_path, capsys):
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pth")
    assert main([str(tmp_path / "linear.pth"), str(tmp_path / "ours")]) == 1
    error = capsys.readouterr().err
    assert "expected a segmenter or tokenizer of the original; it begins with ['bias', 'weight']" in error


def test_reversing_what_is_no_folder_is_an_error_not_a_traceback(tmp_path, capsys):
    assert main(["--reverse", str(tmp_path / "nowhere"), str(tmp_path / "back.safetensors")]) == 1
    assert "nowhere" in capsys.readouterr().err
