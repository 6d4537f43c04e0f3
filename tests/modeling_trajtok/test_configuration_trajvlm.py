"""TrajVLM's configuration: what is inside belongs to it alone, and what the language model allows is allowed."""

import copy
import pickle

import pytest
import torch
from transformers import AutoConfig, BloomConfig, GPT2Config, Qwen3ForCausalLM

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajTokConfig,
    TrajViT2Config,
    TrajViT2Model,
    TrajVLMConfig,
    TrajVLMForConditionalGeneration,
    TrajVLMModel,
)


@pytest.mark.parametrize("config_class", [TrajTokConfig, TrajViT2Config, TrajAdapterConfig, TrajVLMConfig])
def test_what_a_program_sets_is_saved_and_read_again(config_class, tmp_path):
    config = config_class()
    parts = [config, *(getattr(config, name) for name in config.sub_configs)]
    if hasattr(config, "trajtok_config"):
        parts.append(config.trajtok_config.backbone_config)
    for part in parts:
        part.num_trajectorys, part.hiden_size, part.frame_per_chunk, part.architecture, part.depth = 1, 2, 3, 4, 5
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    loaded.name_or_path = config.name_or_path
    assert loaded.to_dict() == config_class.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert pickle.loads(pickle.dumps(config)).to_dict() == copy.deepcopy(config).to_dict() == config.to_dict()
    # What a user passes is still checked.
    misspelt = {"output_hidden_state": True}
    with pytest.raises(ValueError, match="did you mean `output_hidden_states`"):
        config_class(**misspelt)
    with pytest.raises(ValueError, match="did you mean `output_hidden_states`"):
        config_class.from_pretrained(tmp_path, **misspelt)
    if hasattr(config, "trajtok_config"):
        with pytest.raises(ValueError, match="TrajTokConfig has no `num_trajectorie`, did you mean"):
            config_class.from_pretrained(tmp_path, trajtok_config={"num_trajectorie": 8})


def test_a_model_with_such_attributes_is_built_from_parts(trajvit2_config):
    vision, text = TrajViT2Model(trajvit2_config.vision_config), Qwen3ForCausalLM(trajvit2_config.text_config)
    vision.config.num_trajectorys = vision.config.trajtok_config.num_trajectorys = 3
    tokens = {"image_token_id": 6, "video_token_id": 7}
    model = TrajVLMForConditionalGeneration.from_components(vision=vision, text=text, **tokens)
    assert model.config.vision_config.trajtok_config.num_trajectorys == 3
    with pytest.raises(ValueError, match="did you mean `frames_per_chunk`"):
        TrajVLMForConditionalGeneration.from_components(vision=vision, text=text, **tokens, frame_per_chunk=3)


def test_the_towers_configuration_is_its_own(trajvit2_config):
    config = trajvit2_config
    assert config.trajtok_config.to_dict() == config.vision_config.trajtok_config.to_dict()
    config.trajtok_config.frames_per_block += 1
    assert config.vision_config.trajtok_config.frames_per_block == config.trajtok_config.frames_per_block - 1
    model = TrajVLMModel(config)
    assert model.vision_tower.config is config.vision_config


@pytest.mark.parametrize("name", ["vlm_config", "trajvit2_config"])
def test_an_attention_implementation_reaches_every_part(name, request):
    def chosen(config):
        return {config._attn_implementation}.union(*(chosen(getattr(config, part)) for part in config.sub_configs))

    values = request.getfixturevalue(name).to_dict()
    assert chosen(TrajVLMConfig(**values, attn_implementation="eager")) == {"eager"}
    config = TrajVLMConfig(**values)
    config._attn_implementation = "sdpa"
    assert chosen(config) == {"sdpa"}
    config._attn_implementation = {"text_config": "eager", "vision_config": "sdpa", "trajtok_config": "eager"}
    model = TrajVLMForConditionalGeneration(config)
    assert chosen(model.config.text_config) == {"eager"} and chosen(model.config.vision_config) == {"sdpa"}
    assert model.model.language_model.config._attn_implementation == "eager"
    if not config.has_trajectory_tower:
        assert chosen(model.model.grouping.segmenter.config) == {"eager"}
    asked = {"": "eager", "text_config": "sdpa", "vision_config": "eager", "trajtok_config": "sdpa"}
    model.set_attn_implementation(asked)
    assert chosen(model.config.text_config) == {"sdpa"} and chosen(model.config.vision_config) == {"eager"}
    assert model.config._attn_implementation == "eager"


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 100}


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (None, 256),
        ({"rope_type": "default", "rope_theta": 10000.0}, 256),
        ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}, 640),
        ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, None),
        (YARN, 400),
        (YARN | {"original_max_position_embeddings": 32}, 256),  # the configuration says more already
        (
            {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            },
            512,
        ),
    ],
)
def test_rope_scaling_allows_longer_prompts(vlm_config, rope, longest):
    values = vlm_config.to_dict()
    if rope is not None:
        values["text_config"]["rope_parameters"] = rope
    config = TrajVLMConfig(**values)
    assert config.max_prompt_length == longest
    model = TrajVLMModel(config).eval()
    with torch.no_grad():
        length = longest or 700
        assert model(torch.full((1, length), 9)).last_hidden_state.shape == (1, length, 32)
        if longest:
            with pytest.raises(ValueError, match=f"{longest + 1} tokens.*expected at most {longest}"):
                model(torch.full((1, longest + 1), 9))


def test_rope_parameters_in_other_forms(vlm_config):
    text = vlm_config.text_config
    text.rope_parameters = {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}, "other": None}
    assert vlm_config.max_prompt_length == 400
    text.rope_parameters = {"type": "linear", "factor": 3, "rope_theta": 10000.0}
    assert vlm_config.max_prompt_length == 768
    vlm_config.text_config = GPT2Config(n_positions=50)
    assert vlm_config.max_prompt_length == 50
    vlm_config.text_config = BloomConfig()
    assert vlm_config.max_prompt_length is None


def test_one_number_stands_for_all_channels(vlm_config):
    values = vlm_config.to_dict() | {"vision_image_mean": 0.25, "vision_image_std": 0.5}
    config = TrajVLMConfig(**values)
    assert config.vision_image_mean == [0.25] * 3 and config.vision_image_std == [0.5] * 3
    assert TrajVLMModel(config).get_image_features(torch.zeros(1, 3, 48, 48)).pooler_output[0].isfinite().all()
