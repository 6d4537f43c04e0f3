"""The configuration refuses what it cannot mean, and every field of it means something."""

import re
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import DINOv3ConvNextConfig, ViTConfig

import modeling_trajtok
from modeling_trajtok import TrajTokConfig, TrajTokModel
from modeling_trajtok.configuration_trajtok import field_names, reject_misspelt

OWN_FIELDS = sorted(set(TrajTokConfig.__annotations__) - {"sub_configs_defaults", "model_type"})


def test_defaults_are_the_released_sizes():
    config = TrajTokConfig()
    assert config.backbone_config.depths == [3, 3, 27, 3]
    assert config.backbone_config.hidden_sizes == [96, 192, 384, 768]
    assert (config.hidden_size, config.num_trajectories, config.num_attention_heads) == (512, 128, 8)
    assert (config.num_query_layers, config.num_encoder_layers, config.mlp_ratio) == (2, 2, 4)
    assert config.encoder_input_size == config.encoder_output_size == 512


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("num_trajectorys", "num_trajectories"),
        ("hiden_size", "hidden_size"),
        ("query_position", "query_positions"),
        ("max_token_per_trajectory", "max_tokens_per_trajectory"),
    ],
)
def test_a_misspelt_field_is_recognised(misspelt, meant, tmp_path):
    with pytest.raises(ValueError, match=f"no `{misspelt}`, did you mean `{meant}`"):
        TrajTokConfig(**{misspelt: 8})
    TrajTokConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"{meant}"', f'"{misspelt}"'))
    with pytest.raises(ValueError, match=f"did you mean `{meant}`"):
        TrajTokConfig.from_pretrained(tmp_path)


def test_a_misspelt_field_of_the_backbone_is_recognised():
    with pytest.raises(ValueError, match="backbone_config has no `depth`, did you mean `depths`"):
        TrajTokConfig(backbone_config={"depth": [1, 1, 1, 1]})


def test_what_transformers_itself_stores_is_not_a_misspelling():
    reject_misspelt("TrajTokConfig", ["auto_map", "torch_dtype", "_hidden_size"], field_names(TrajTokConfig))


def test_saved_and_loaded(tiny_config, tmp_path):
    tiny_config.save_pretrained(tmp_path)
    loaded = TrajTokConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == tiny_config.to_dict()
    assert type(loaded.backbone_config) is DINOv3ConvNextConfig
    assert loaded.backbone_config.hidden_sizes == [8, 12, 16, 20]


def test_widths_follow_from_each_other():
    assert TrajTokConfig(hidden_size=64, encoder_input_size=96).encoder_output_size == 96
    assert TrajTokConfig(hidden_size=64, encoder_output_size=40).encoder_input_size == 64


@pytest.mark.parametrize("field", OWN_FIELDS)
def test_every_field_is_read_by_the_model(field):
    """A field that nobody reads is a promise that nobody keeps."""
    package = Path(modeling_trajtok.__file__).parent
    readers = [path for path in package.glob("*.py") if path.stem not in ("configuration_trajtok", "__init__")]
    readers = [path for path in readers if not path.stem.startswith("convert_")]
    assert len(readers) > 5
    assert any(re.search(rf"\bconfig\.{field}\b", path.read_text()) for path in readers)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_attention_heads": 5}, r"hidden_size=512 with num_attention_heads=5, expected .*Try hidden_size=520"),
        ({"encoder_input_size": 50}, "encoder_input_size=50 .*Try encoder_input_size=64"),
        ({"hidden_size": 12, "num_attention_heads": 3}, "hidden_size=12, expected a multiple of 8"),
        ({"high_res_factor": 3}, "high_res_factor=3, expected None, 1, 2, 4 or 8"),
        ({"initial_logit_scale": 1.0}, "initial_logit_scale=1.0, expected more than 1, at most 20"),
        ({"initial_logit_scale": 21.0}, "initial_logit_scale=21.0, expected more than 1, at most 20"),
        ({"num_trajectories": 0}, "num_trajectories=0, expected at least 1"),
        ({"max_tokens_per_trajectory": 0}, "max_tokens_per_trajectory=0, expected at least 1"),
        ({"frames_per_block": 0}, "frames_per_block=0, expected at least 1"),
        ({"num_query_layers": 0}, "num_query_layers=0, expected at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads=0, expected at least 1"),
        ({"hidden_size": -64}, "hidden_size=-64, expected at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio=0, expected at least 1"),
        ({"num_trajectories": "64"}, "num_trajectories.* expected int, got str"),
        ({"feature_fusion": "mean"}, "feature_fusion.* expected one of .*sum.*concat.*last"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        TrajTokConfig(**sizes)


def test_a_backbone_without_a_type_is_dinov3():
    assert type(TrajTokConfig(backbone_config={"depths": [1, 1, 1, 1]}).backbone_config) is DINOv3ConvNextConfig


def test_a_backbone_of_another_kind_is_refused():
    with pytest.raises(
        (ValueError, StrictDataclassError), match=r"backbone_config of type bert, expected dinov3_convnext"
    ):
        TrajTokConfig(backbone_config={"model_type": "bert"})


def test_concat_needs_a_width_that_the_stages_share():
    backbone = {"model_type": "dinov3_convnext", "depths": [1, 1, 1], "hidden_sizes": [8, 12, 16]}
    with pytest.raises((ValueError, StrictDataclassError), match=r"hidden_size=64 .*concat.*3 stages"):
        TrajTokConfig(backbone_config=backbone, hidden_size=64, feature_fusion="concat")


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="configuration of a `vit` model, expected `trajtok`"):
        TrajTokModel.from_pretrained(tmp_path)
