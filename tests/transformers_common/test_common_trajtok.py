"""Transformers' own common tests of models and configurations, run on TrajTok and on the segmenter alone."""

import copy
import sys
import unittest
from pathlib import Path

import torch
from torch import nn

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokSegmenterModel

sys.path.append(str(Path(__file__).parent))
from transformers_mixins import load_mixins

ModelTesterMixin, ConfigTester = load_mixins(
    "test_modeling_common.ModelTesterMixin", "test_configuration_common.ConfigTester"
)

TRAJTOK = {
    "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5},
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_trajectories": 6,
    "num_query_layers": 2,
    "num_encoder_layers": 2,
    "high_res_factor": None,
    "encoder_queries": "latents_and_mean",  # so that a task trains the segmenter
    "initial_logit_scale": 10.0,
}


class ClipTester:
    """Clips of 2 frames of 32 x 32 pixels: 8 x 8 patches each."""

    batch_size = 3
    seq_length = TRAJTOK["num_trajectories"]
    key_length = seq_length + 2 * 8 * 8
    num_hidden_layers = 2
    num_attention_heads = TRAJTOK["num_attention_heads"]
    hidden_size = TRAJTOK["hidden_size"]
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> TrajTokConfig:
        return TrajTokConfig(**copy.deepcopy(TRAJTOK))

    def prepare_config_and_inputs_for_common(self):
        pixels = torch.randn(self.batch_size, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return self.get_config(), {"pixel_values_videos": pixels}


class Common(ModelTesterMixin):
    """What both share."""

    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = ClipTester(self)
        self.config_tester = ConfigTester(
            self,
            config_class=TrajTokConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "num_attention_heads"],
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["trajectory_labels"] = torch.arange(2 * 64).view(2, 8, 8).expand(3, -1, -1, -1) // 8 % 6
        return inputs

    def test_model_get_set_embeddings(self):
        """Patches are embedded, not words: the input embeddings are a convolution, as in other vision models."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertEqual(model.get_input_embeddings().weight.shape, (8, 3, 4, 4))
            new = nn.Conv2d(3, 8, kernel_size=4, stride=4)
            model.set_input_embeddings(new)
            self.assertIs(model.get_input_embeddings(), new)
            self.assertIsNone(model.get_output_embeddings())

    def test_model_outputs_equivalence(self):
        """Transformers' own test subtracts outputs from each other; ``token_valid`` is boolean."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class._from_config(config, attn_implementation="eager").eval()
            for settings in ({}, {"output_hidden_states": True}, {"output_attentions": True}):
                with torch.no_grad():
                    named = model(**inputs, **settings)
                    unnamed = model(**inputs, **settings, return_dict=False)
                self.assertIs(type(unnamed), tuple)
                self.assertEqual(len(unnamed), len(named))
                for name, value, expected in zip(named, unnamed, named.values(), strict=True):
                    torch.testing.assert_close(
                        value, expected, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
                    )

    def test_config(self):
        self.config_tester.run_common_tests()


class TrajTokModelTest(Common, unittest.TestCase):
    all_model_classes = (TrajTokModel,)

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """The model's own loss trains the segmenter; the encoder is trained by who uses its tokens, here by their sum.

        Base models that Transformers knows by name are left out of its own test.
        """
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, TrajTokModel, return_labels=True)
        model = TrajTokModel(config).train()
        # Transformers 5.24 renamed it.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable(gradient_checkpointing_kwargs)
        outputs = model(**inputs)
        (outputs.loss + outputs.trajectory_embeds.square().mean()).backward()
        for name, parameter in model.named_parameters():
            self.assertIsNotNone(parameter.grad, name)


class TrajTokSegmenterModelTest(Common, unittest.TestCase):
    all_model_classes = (TrajTokSegmenterModel,)

    def test_retain_grad_hidden_states_attentions(self):
        """Transformers' own test starts the backward pass at the first output, here the integer ids."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = TrajTokSegmenterModel._from_config(config, attn_implementation="eager")
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
        for states in (*outputs.hidden_states, *outputs.attentions):
            states.retain_grad()
        outputs.assignment_logits[0, 0, 0].backward()
        for states in (*outputs.hidden_states, *outputs.attentions):
            self.assertTrue(states.grad.abs().sum() > 0)
