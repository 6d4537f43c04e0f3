"""A TrajViT2 file of the original becomes a folder that every Auto class loads, and nothing gets lost on the way."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    BertTokenizer,
)

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Config, TrajViT2Model, TrajViT2Processor
from modeling_trajtok.convert_official_checkpoint import CheckpointError, main, to_official, to_ours

HEADS = ("--transformer-heads", "4", "--text-heads", "2")


@pytest.fixture
def model() -> TrajViT2Model:
    torch.manual_seed(0)
    return TrajViT2Model(
        TrajViT2Config(
            trajtok_config={
                "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20]},
                "hidden_size": 64,
                "num_attention_heads": 8,
                "num_trajectories": 6,
                "encoder_output_size": 32,
                "high_res_factor": None,
                "initializer_range": 0.2,
            },
            transformer_config={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "initializer_range": 0.2,
                "mask_empty_trajectories": False,
            },
            text_config={
                "vocab_size": 31,
                "hidden_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 28,
                "max_position_embeddings": 12,
                "initializer_range": 0.2,
            },
            projection_dim=20,
            initializer_range=0.2,
        )
    ).eval()


@pytest.fixture
def official(model) -> dict[str, torch.Tensor]:
    """What the original would have stored, with the fusion layers and heads that nothing here needs."""
    state = {name: value.clone() for name, value in to_official(model).items()}
    for name in [name for name in state if name.startswith("text_encoder.encoder.layer.1.")]:
        state[name.replace("layer.1.", "layer.2.")] = torch.randn_like(state[name])
        if ".attention." in name:
            state[name.replace("layer.1.attention.", "layer.2.crossattention.")] = torch.randn_like(state[name])
    state["text_encoder.embeddings.position_ids"] = torch.arange(12).unsqueeze(0)
    state["itm_head.weight"] = torch.randn(2, 24)
    state["vision_encoder.vision_encoder.vit.layernorm.weight"] = torch.randn(32)
    return state


@pytest.fixture
def tokenizer(tmp_path) -> str:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    tokenizer.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_the_folder_serves_every_auto_class(model, official, tokenizer, tmp_path, capsys):
    torch.save({"model": official, "meta": {"epoch": 3}}, tmp_path / "theirs.pth")
    arguments = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours"), "--tokenizer", tokenizer, *HEADS]
    assert main(arguments) == 0, capsys.readouterr().err
    report = capsys.readouterr().out
    assert "TrajViT2Model" in report and "fusion layer" in report and "never called" in report

    again = AutoModel.from_pretrained(tmp_path / "ours")
    state = again.state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []
    assert again.config.transformer_config.mask_empty_trajectories is False
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert type(processor) is TrajViT2Processor
    assert type(AutoVideoProcessor.from_pretrained(tmp_path / "ours")) is TrajTokVideoProcessor
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").model_max_length == 12
    assert AutoModelForVideoClassification.from_pretrained(tmp_path / "ours", num_labels=4).num_labels == 4
    clip = torch.randint(0, 256, (9, 48, 48, 3), dtype=torch.uint8)
    inputs = processor(videos=clip, text=["a b c", "d"], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 8, 3, 224, 224)

    assert main([str(tmp_path / "ours"), str(tmp_path / "back.safetensors"), "--reverse"]) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() < official.keys()
    assert all(torch.equal(value, official[name]) for name, value in back.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("vision_proj.bias"), "missing key `vision_proj.bias`"),
        (lambda state: state.update({"vision_encoder.extra": torch.ones(1)}), "unknown key `vision_encoder.extra`"),
        (
            lambda state: state.update({"vision_encoder.norm.weight": torch.ones(5)}),
            r"`vision_encoder.norm.weight` has shape \(5,\), expected \(32,\)",
        ),
        (lambda state: state.pop("text_encoder.embeddings.word_embeddings.weight"), "lacks `text_encoder.embeddings"),
    ],
)
def test_a_file_that_does_not_balance_is_refused_by_name(official, change, message):
    change(official)
    with pytest.raises(CheckpointError, match=message):
        to_ours(official, transformer_heads=4, text_heads=2)


def test_heads_that_do_not_fit_are_refused(official):
    with pytest.raises((CheckpointError, ValueError), match="heads"):
        to_ours(official, transformer_heads=5, text_heads=2)


@pytest.mark.parametrize("name", ["missing", "other"])
def test_a_tokenizer_of_another_tower_is_refused(official, tmp_path, capsys, name):
    if name == "other":
        BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "a": 2}).save_pretrained(tmp_path / "other")
    torch.save(official, tmp_path / "theirs.pth")
    arguments = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours"), "--tokenizer", str(tmp_path / name), *HEADS]
    assert main(arguments) == 1
    assert "--tokenizer" in capsys.readouterr().err and not (tmp_path / "ours").exists()
