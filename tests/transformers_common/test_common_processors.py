"""Transformers' own common tests of processors, run on `TrajViT2Processor` and `TrajVLMProcessor`.

Where they would fetch pictures and clips from the network, small ones that are made here stand in their place.
"""

import sys
import tempfile
import types
import unittest
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast, SiglipImageProcessor

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Processor, TrajVLMProcessor

sys.path.append(str(Path(__file__).parent))
from transformers_mixins import load_mixins

FOLDER = tempfile.TemporaryDirectory(prefix="trajtok-common-")


def local_file(url: str) -> str:
    """A picture, or a clip of 11 frames at 33 Hz, under the name that the address ends with."""
    path = Path(FOLDER.name) / url.split("/")[-1]
    shades = np.arange(11, dtype=np.uint8)[:, None, None, None] * 20 + np.zeros((11, 48, 64, 3), np.uint8)
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(shades[5]).save(path)
    elif path.suffix == ".mp4" and not path.exists():
        with av.open(str(path), "w") as container:
            track = container.add_stream("libx264", rate=33)
            track.height, track.width, track.pix_fmt = 48, 64, "yuv420p"
            for frame in shades:
                container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(track.encode(None))
    return str(path)


# Stands beside Transformers' tests, not in them, and knows where a machine of theirs keeps what it fetched.
fetched = types.ModuleType("fetch_hub_objects_for_ci")
fetched.url_to_local_path = local_file
sys.modules["fetch_hub_objects_for_ci"] = fetched

(ProcessorTesterMixin,) = load_mixins("test_processing_common.ProcessorTesterMixin")

SIZE = {"height": 32, "width": 48}


class TrajViT2ProcessorCommonTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = TrajViT2Processor

    @classmethod
    def _setup_video_processor(cls):
        return TrajTokVideoProcessor(size=SIZE, num_frames=4)

    @classmethod
    def _setup_tokenizer(cls):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]
        return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=300)


class TrajVLMProcessorCommonTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = TrajVLMProcessor

    @classmethod
    def _setup_image_processor(cls):
        return SiglipImageProcessor(size=SIZE)

    @classmethod
    def _setup_video_processor(cls):
        return TrajTokVideoProcessor(size=SIZE, num_frames=4)

    @classmethod
    def _setup_tokenizer(cls):
        special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
        special += ["<|image_pad|>", "<|video_pad|>"]
        words = [*special, "lower", "newer", "upper", "older", "longer", "string", "user", "assistant"]
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token="<unk>",
            pad_token="<pad>",
            eos_token="<|im_end|>",
            additional_special_tokens=special[2:],
            model_max_length=300,
        )

    @staticmethod
    def prepare_processor_dict():
        return {"num_trajectories": 3, "frames_per_chunk": 4}

    @property
    def video_sampling_expectations(self):
        """Frames are taken at their times: 11 frames in a third of a second hold four at 10 Hz, not three.

        Where a call asks for nothing, the processor's own number of frames counts, here 4.
        """
        return [
            {"num_frames": 3, "fps": None, "expected_dim": 1, "output_length": 3},
            {"num_frames": None, "fps": 10, "expected_dim": 1, "output_length": 4},
            {"do_sample_frames": False, "fps": 10, "expected_dim": 1, "output_length": 11},
            {"do_sample_frames": False, "expected_dim": 1, "output_length": 11},
            {"expected_dim": 1, "output_length": 4},
        ]

    def test_apply_chat_template_video_frame_sampling(self):
        """As there until the last lines, which want an error where ours samples a list of picture files as a video."""
        with self.assertRaisesRegex(AssertionError, "ValueError not raised"):
            super().test_apply_chat_template_video_frame_sampling()
        picture = local_file("picture.png")
        content = [{"type": "video", "url": [picture] * 9}, {"type": "text", "text": "describe this"}]
        inputs = self.get_processor().apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        self.assertEqual(inputs["pixel_values_videos"].shape[:2], (1, 4))
