"""Fixtures that several rooms share: where the real data lies, and a model small enough for every test."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_trajtok import TrajTokConfig, TrajViT2Config, TrajVLMConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)  # tests run in several processes; threads that wait for each other on busy cores are slow


def _folder(path: Path, what: str) -> Path:
    if path.is_dir():
        return path
    message = f"{what} are not at {path}; they lie beside the repository, not in it."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and ground-truth sequences."""
    return _folder(SHARED / "data", "Real clips")


@pytest.fixture
def tiny_config() -> TrajTokConfig:
    """Sizes that all differ, so that swapped axes cannot hide: K 6, L 2, D 48, 3 heads."""
    return TrajTokConfig(
        backbone_config={
            "model_type": "dinov3_convnext",
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 12, 16, 20],
            "layer_scale_init_value": 0.5,
        },
        hidden_size=48,
        num_attention_heads=3,
        num_trajectories=6,
        num_query_layers=2,
        num_encoder_layers=1,
        max_tokens_per_trajectory=2,
        initializer_range=0.2,
        initial_logit_scale=10.0,
    )


@pytest.fixture(scope="session")
def vlm_tokenizer() -> PreTrainedTokenizerFast:
    """A word for each of a few words, and the special tokens of a conversation."""
    special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    words = "user assistant what how many objects is the colour or of red blue two three ? . < - > seconds 0 1 2 3 4 5"
    words += " 6 7 8 9 A B C D E letter star"
    vocabulary = {word: number for number, word in enumerate([*special, *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[2:],
        model_max_length=256,
    )


@pytest.fixture
def vlm_config(tiny_config, vlm_tokenizer) -> TrajVLMConfig:
    """K 6, chunks of 3 frames, 6 x 6 patches of width 40, language model of width 32."""
    return TrajVLMConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 40,
            "intermediate_size": 44,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 48,
            "patch_size": 8,
            "vision_use_head": False,
        },
        trajtok_config=tiny_config.to_dict() | {"detach_patch_features": False, "high_res_factor": None},
        text_config={
            "model_type": "qwen3",
            "hidden_size": 32,
            "intermediate_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(vlm_tokenizer),
            "max_position_embeddings": 256,
            "initializer_range": 0.2,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": vlm_tokenizer.eos_token_id,
            "pad_token_id": vlm_tokenizer.pad_token_id,
        },
        image_token_id=vlm_tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=vlm_tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        frames_per_chunk=3,
        num_connector_heads=2,
        segmenter_size_px=32,
        initializer_range=0.2,
    )


@pytest.fixture
def trajvit2_config(vlm_config, tiny_config) -> TrajVLMConfig:
    """As `vlm_config`, with a tower that makes trajectory tokens by itself."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    tower = TrajViT2Config(
        trajtok_config=tiny_config,
        transformer_config={"hidden_size": tiny_config.encoder_output_size, **sizes},
        text_config={"model_type": "bert", "hidden_size": 32, "vocab_size": 20, **sizes},
        initializer_range=0.3,
    )
    return TrajVLMConfig(**{**vlm_config.to_dict(), "vision_config": tower.to_dict(), "segmenter_size_px": 48})
