"""Small checkpoints of every kind that is published, as training leaves them behind."""

import pytest
import torch
from transformers import AutoConfig, BertTokenizer

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajAdapterModel,
    TrajTokModel,
    TrajTokSegmenterModel,
    TrajTokVideoProcessor,
    TrajViT2Config,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2Processor,
    TrajViT2VideoModel,
    TrajVLMForConditionalGeneration,
    TrajVLMModel,
    TrajVLMProcessor,
)

FRAMES = {"size": {"height": 40, "width": 72}, "num_frames": 3}


@pytest.fixture
def trajvit2_processor() -> TrajViT2Processor:
    """Letters are its words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=20)
    return TrajViT2Processor(TrajTokVideoProcessor(**FRAMES), tokenizer)


@pytest.fixture
def tiny_trajvit2_config(tiny_config) -> TrajViT2Config:
    """Of 3 frames; its tokens carry path and outline."""
    sizes = {"num_hidden_layers": 1, "initializer_range": 0.2}
    return TrajViT2Config(
        trajtok_config=tiny_config.to_dict()
        | {"encoder_output_size": 32, "track_embedding": True, "outline_embedding": True},
        transformer_config={"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, **sizes},
        text_config={"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 57, **sizes},
        projection_dim=16,
        num_frames=3,
        initializer_range=0.2,
    )


@pytest.fixture
def adapter_config(tiny_config) -> TrajAdapterConfig:
    """Of a backbone that is saved with it and of which the frames come in pairs."""
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision |= {"image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    return TrajAdapterConfig(
        backbone_config=AutoConfig.for_model("videomae", **vision),
        trajtok_config=tiny_config.to_dict() | {"encoder_input_size": None, "encoder_output_size": None},
        num_pooler_heads=3,
        num_labels=3,
    )


@pytest.fixture
def save_checkpoint(request, tiny_config, tmp_path):
    """save_checkpoint(kind) writes a folder of that name and returns its path."""
    settings = {
        "trajtok": (TrajTokModel, "tiny_config"),
        "segmenter": (TrajTokSegmenterModel, "tiny_config"),
        "trajvit2": (TrajViT2Model, "tiny_trajvit2_config"),
        "trajvit2_video": (TrajViT2VideoModel, "tiny_trajvit2_config"),
        "trajvit2_classifier": (TrajViT2ForVideoClassification, "tiny_trajvit2_config"),
        "trajadapter": (TrajAdapterModel, "adapter_config"),
        "trajadapter_classifier": (TrajAdapterForVideoClassification, "adapter_config"),
        "trajvlm": (TrajVLMForConditionalGeneration, "vlm_config"),
        "trajvlm_base": (TrajVLMModel, "vlm_config"),
        "trajvlm_on_trajvit2": (TrajVLMForConditionalGeneration, "trajvit2_config"),
    }

    def save(kind: str):
        model_class, config_name = settings[kind]
        config = request.getfixturevalue(config_name)
        torch.manual_seed(0)
        model_class(config).save_pretrained(tmp_path / kind)
        processor = TrajTokVideoProcessor(**FRAMES)
        if kind.startswith("trajvit2"):
            processor = request.getfixturevalue("trajvit2_processor")
        elif kind.startswith("trajvlm"):
            tokenizer = request.getfixturevalue("vlm_tokenizer")
            processor = TrajVLMProcessor.from_model_config(config, tokenizer, num_frames=3)
        processor.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save
