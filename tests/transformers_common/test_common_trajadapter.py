"""Transformers' own common tests of models and configurations, run on TrajAdapter and its classifier."""

import copy
import sys
import unittest
from pathlib import Path

import torch
from transformers import AutoConfig

from modeling_trajtok import TrajAdapterConfig, TrajAdapterForVideoClassification, TrajAdapterModel

sys.path.append(str(Path(__file__).parent))
from pixel_models import ClassifierInputs, PixelModelTests
from transformers_mixins import load_mixins

ModelTesterMixin, ConfigTester = load_mixins(
    "test_modeling_common.ModelTesterMixin", "test_configuration_common.ConfigTester"
)

BACKBONE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TRAJTOK = {
    "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5},
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_trajectories": 6,
    "num_query_layers": 1,
    "num_encoder_layers": 1,
    "initial_logit_scale": 10.0,
}


class TrajAdapterTester:
    """Clips of 2 frames of 32 x 32 pixels; the backbone reads CLS and 16 patches of each frame."""

    batch_size = 3
    seq_length = 1 + 16
    num_hidden_layers = BACKBONE["num_hidden_layers"]
    num_attention_heads = BACKBONE["num_attention_heads"]
    hidden_size = BACKBONE["hidden_size"]
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> TrajAdapterConfig:
        return TrajAdapterConfig(
            backbone_config=AutoConfig.for_model("dinov2", **BACKBONE),
            trajtok_config=copy.deepcopy(TRAJTOK),
            num_pooler_heads=3,
            num_labels=3,
        )

    def prepare_config_and_inputs_for_common(self):
        pixels = torch.randn(self.batch_size, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return self.get_config(), {"pixel_values_videos": pixels}


class Common(PixelModelTests, ModelTesterMixin):
    """What both share."""

    model_tester_class = TrajAdapterTester
    test_resize_embeddings = False  # pixels are embedded: there is no vocabulary

    test_all_params_have_gradient = False  # the backbone and the segmenter are frozen

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(
            self, config_class=TrajAdapterConfig, has_text_modality=False, common_properties=["num_pooler_heads"]
        )

    @unittest.skip("States and attention weights are the backbone's, which is frozen: they have no gradient.")
    def test_retain_grad_hidden_states_attentions(self):
        pass


class WithoutLossTester(TrajAdapterTester):
    """The adapter without a head has no loss, so it is not trained."""

    is_training = False


class TrajAdapterModelTest(Common, unittest.TestCase):
    model_tester_class = WithoutLossTester
    all_model_classes = (TrajAdapterModel,)

    def test_config(self):
        self.config_tester.run_common_tests()


class TrajAdapterForVideoClassificationTest(ClassifierInputs, Common, unittest.TestCase):
    all_model_classes = (TrajAdapterForVideoClassification,)
