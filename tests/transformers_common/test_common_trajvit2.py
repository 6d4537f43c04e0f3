"""Transformers' own common tests of models and configurations, run on TrajViT2, its video tower and its classifier."""

import copy
import sys
import unittest
from pathlib import Path

import torch

from modeling_trajtok import TrajViT2Config, TrajViT2ForVideoClassification, TrajViT2Model, TrajViT2VideoModel

sys.path.append(str(Path(__file__).parent))
from pixel_models import ClassifierInputs, PixelModelTests
from transformers_mixins import load_mixins

ModelTesterMixin, ConfigTester = load_mixins(
    "test_modeling_common.ModelTesterMixin", "test_configuration_common.ConfigTester"
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
TRAJTOK = {
    "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5},
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_trajectories": 6,
    "num_query_layers": 1,
    "num_encoder_layers": 1,
    "high_res_factor": None,
    "encoder_output_size": 32,
    "encoder_queries": "latents_and_mean",  # so that a task trains the segmenter
    "initial_logit_scale": 10.0,
}
TEXT = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 12, **SIZES}


class VideoTester:
    """Clips of 2 frames of 32 x 32 pixels; the transformer reads CLS and K = 6 tokens."""

    batch_size = 3
    seq_length = 1 + 6
    num_hidden_layers = SIZES["num_hidden_layers"]
    num_attention_heads = SIZES["num_attention_heads"]
    hidden_size = SIZES["hidden_size"]
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> TrajViT2Config:
        return TrajViT2Config(
            trajtok_config=copy.deepcopy(TRAJTOK),
            transformer_config=dict(SIZES),
            text_config=dict(TEXT),
            projection_dim=20,
            num_labels=3,
        )

    def prepare_config_and_inputs_for_common(self):
        pixels = torch.randn(self.batch_size, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return self.get_config(), {"pixel_values_videos": pixels}


class PairTester(VideoTester):
    """A text of 7 tokens for each clip."""

    text_seq_length = 7

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        ids = torch.randint(1, 40, (self.batch_size, 7), generator=torch.Generator().manual_seed(1))
        return config, inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Common(PixelModelTests, ModelTesterMixin):
    """What all of them share."""

    model_tester_class = VideoTester
    test_resize_embeddings = False  # pixels are embedded: there is no vocabulary

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(
            self, config_class=TrajViT2Config, has_text_modality=False, common_properties=["projection_dim"]
        )


class WithoutLossTester(VideoTester):
    """The tower alone has no loss, so it is not trained."""

    is_training = False


class TrajViT2VideoModelTest(Common, unittest.TestCase):
    model_tester_class = WithoutLossTester
    all_model_classes = (TrajViT2VideoModel,)


class TrajViT2ForVideoClassificationTest(ClassifierInputs, Common, unittest.TestCase):
    all_model_classes = (TrajViT2ForVideoClassification,)


class TrajViT2ModelTest(Common, unittest.TestCase):
    model_tester_class = PairTester
    all_model_classes = (TrajViT2Model,)
    test_resize_embeddings = True
    additional_model_inputs = ("input_ids",)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Videos and texts are each other's labels."""
        return {**inputs_dict, **({"return_loss": True} if return_labels else {})}

    @unittest.skip("The towers' outputs have them, as CLIP's; they are tested beside get_video_features.")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("The towers' outputs have them, as CLIP's; they are tested beside get_video_features.")
    def test_attention_outputs(self):
        pass

    @unittest.skip("The towers' outputs have them, as CLIP's.")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    def test_model_get_set_embeddings(self):
        ModelTesterMixin.test_model_get_set_embeddings(self)

    def test_config(self):
        self.config_tester.run_common_tests()
