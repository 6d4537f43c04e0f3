"""Fixtures that several scripts' tests share: a TrajViT2 on disk, small enough for every test."""

import pytest
import torch
from transformers import BertTokenizer

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Config, TrajViT2Model, TrajViT2Processor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture
def save_trajvit2(tiny_config):
    """save_trajvit2(folder, words, size_px) -> the folder, with a model that knows these words, and its processor."""

    def save(folder, words, size_px, seed=0, **tokenizer_settings):
        torch.manual_seed(seed)
        vocabulary = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *words))}
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = TrajViT2Config(
            trajtok_config=tiny_config,
            transformer_config={"hidden_size": tiny_config.encoder_output_size, **sizes},
            text_config={"model_type": "bert", "hidden_size": 32, "vocab_size": len(vocabulary), **sizes},
            projection_dim=16,
            num_frames=3,
            initializer_range=0.5,
        )
        TrajViT2Model(config).save_pretrained(folder)
        video_processor = TrajTokVideoProcessor(size={"height": size_px, "width": size_px})
        tokenizer = BertTokenizer(vocab=vocabulary, **tokenizer_settings)
        TrajViT2Processor(video_processor, tokenizer).save_pretrained(folder)
        return folder

    return save
