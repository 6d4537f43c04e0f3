"""Transformers' own common tests of models and configurations, run on TrajVLM with either kind of tower."""

import sys
import unittest
from pathlib import Path
from unittest import mock

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES

from modeling_trajtok import TrajVLMConfig, TrajVLMForConditionalGeneration, TrajVLMModel

sys.path.append(str(Path(__file__).parent))
from transformers_mixins import load_mixins

ModelTesterMixin, ConfigTester = load_mixins(
    "test_modeling_common.ModelTesterMixin", "test_configuration_common.ConfigTester"
)

IMAGE, VIDEO = 1, 2
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 40,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
TRAJTOK = {
    "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5},
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_trajectories": 6,
    "num_query_layers": 1,
    "num_encoder_layers": 1,
    "initial_logit_scale": 10.0,
}
TEXT = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 3,
}


class TrajVLMTester:
    """Each row of the batch is a prompt about one image and one video, each of which becomes K = 6 tokens."""

    batch_size = 3
    seq_length = 6 + 6 + 4
    num_hidden_layers = TEXT["num_hidden_layers"]
    num_attention_heads = TEXT["num_attention_heads"]
    hidden_size = TEXT["hidden_size"]
    is_training = True

    def __init__(self, parent):
        self.parent = parent
        self.vision_config = VISION

    def get_config(self):
        return TrajVLMConfig(
            vision_config=VISION,
            trajtok_config=TRAJTOK,
            text_config=TEXT,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            num_connector_heads=2,
            num_connector_layers=1,
            segmenter_size_px=32,
        )

    def prepare_config_and_inputs_for_common(self):
        words = torch.randint(4, TEXT["vocab_size"], (self.batch_size, self.seq_length))
        words[:, 1:7], words[:, 8:14] = IMAGE, VIDEO
        inputs = {
            "input_ids": words,
            "attention_mask": torch.ones_like(words),
            "pixel_values": torch.randn(self.batch_size, 3, 32, 32),
            "pixel_values_videos": torch.randn(self.batch_size, 2, 3, 32, 32),
        }
        return self.get_config(), inputs


class TrajVLMCommonTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (TrajVLMModel, TrajVLMForConditionalGeneration)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = TrajVLMTester(self)
        self.config_tester = ConfigTester(self, config_class=TrajVLMConfig, has_text_modality=False)
        # The mixin looks up what a class is for by its name.
        for names, name in (
            (MODEL_MAPPING_NAMES, "TrajVLMModel"),
            (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "TrajVLMForConditionalGeneration"),
        ):
            patch = mock.patch.dict(names, trajvlm=name)
            patch.start()
            self.addCleanup(patch.stop)

    def test_generation_tester_mixin_inheritance(self):
        self.skipTest(
            "The archive lacks the generation tests; tests/modeling_trajtok/test_generation_trajvlm.py has them."
        )

    def test_config(self):
        self.config_tester.run_common_tests()
