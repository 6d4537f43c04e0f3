"""What Transformers' common tests take for granted of every model, as it is of models that read pixels.

In:   the attributes of a tester: its models, configuration and inputs
To:   test_common_trajvit2, test_common_trajadapter
"""

import torch
from torch.utils._pytree import tree_leaves


class PixelModelTests:
    """Stands before `ModelTesterMixin`, whose tests of the same names it replaces."""

    def test_model_get_set_embeddings(self):
        """The mixin expects embeddings of tokens; pixels are embedded by a convolution."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Module)
            other = torch.nn.Conv2d(3, 8, 4, 4)
            model.set_input_embeddings(other)
            self.assertIs(model.get_input_embeddings(), other)

    def test_model_outputs_equivalence(self):
        """The mixin subtracts outputs from each other, which boolean masks do not allow."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config).eval()
            for asked in ({}, {"output_hidden_states": True}):
                with torch.no_grad():
                    named = model(**inputs, **asked).to_tuple()
                    plain = model(**inputs, **asked, return_dict=False)
                self.assertIsInstance(plain, tuple)
                found, expected = (
                    [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)] for out in (plain, named)
                )
                self.assertEqual(len(found), len(expected))
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other)


class ClassifierInputs:
    """For classifiers of videos."""

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The mixin knows labels of the library's own classes only."""
        labels = {"labels": torch.zeros(len(inputs_dict["pixel_values_videos"]), dtype=torch.long)}
        return {**inputs_dict, **(labels if return_labels else {})}
