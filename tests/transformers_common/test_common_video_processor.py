"""Transformers' own common tests of video processors, run on `TrajTokVideoProcessor`.

Two of them ask for what other processors do; here stands in their place what ours does, each with its reason.
"""

import sys
import unittest
from pathlib import Path

import torch
from transformers.video_utils import VideoMetadata

from modeling_trajtok import TrajTokVideoProcessor

sys.path.append(str(Path(__file__).parent))
from transformers_mixins import load_mixins

VideoProcessingTestMixin, prepare_video_inputs = load_mixins(
    "test_video_processing_common.VideoProcessingTestMixin", "test_video_processing_common.prepare_video_inputs"
)


class VideoProcessorTester:
    """Settings of a small processor, and videos of different sizes to put into it."""

    batch_size, num_frames, num_channels = 3, 8, 3

    def __init__(self):
        self.settings = {
            "size": {"height": 64, "width": 96},
            "num_frames": 4,
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 64},
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.4],
        }

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=80,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, videos):
        return self.settings["num_frames"], 3, 32, 64


class TrajTokVideoProcessorCommonTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = TrajTokVideoProcessor
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessorTester()

    @property
    def video_processor_dict(self):
        return dict(self.video_processor_tester.settings)

    def test_video_processor_from_dict_with_kwargs(self):
        """The mixin has a tester with its own size, and a number that means the shorter side; here it is a square."""
        processor = TrajTokVideoProcessor.from_dict(self.video_processor_dict)
        self.assertEqual(processor.size, {"height": 64, "width": 96})
        self.assertEqual(processor.crop_size, {"height": 32, "width": 64})
        processor = TrajTokVideoProcessor.from_dict(self.video_processor_dict, size=142, crop_size=84)
        self.assertEqual(processor.size, {"height": 142, "width": 142})
        self.assertEqual(processor.crop_size, {"height": 84, "width": 84})

    def test_call_sample_frames(self):
        """The mixin expects an error for clips with fewer frames than asked for; ours are padded and marked.

        Everything else is asked for as there.
        """
        processor = TrajTokVideoProcessor(**self.video_processor_dict)
        videos = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")

        def num_frames(videos, **settings):
            return processor(videos, return_tensors="pt", **settings)["pixel_values_videos"].shape[1]

        processor.do_sample_frames = False
        for given in (videos[0], videos):
            self.assertEqual(num_frames(given, num_frames=3), 8)
        processor.do_sample_frames = True
        for given in (videos[0], videos):
            self.assertEqual(num_frames(given, num_frames=3), 3)
        with self.assertRaises(ValueError):
            processor.sample_frames(metadata=VideoMetadata(total_num_frames=8), fps=3)
        for facts in ({"duration": 2.0, "total_num_frames": 8, "fps": 4}, VideoMetadata(8, 4.0, duration=2.0)):
            self.assertEqual(num_frames(videos[0], fps=3, video_metadata=[[facts]]), 6)
            self.assertEqual(num_frames(videos, fps=3, video_metadata=[[facts]] * len(videos)), 6)

        padded = processor(videos, return_tensors="pt", num_frames=10)
        self.assertEqual(padded["pixel_values_videos"].shape[1], 10)
        self.assertEqual(padded["frame_valid"].sum(dim=1).tolist(), [8] * len(videos))
        torch.testing.assert_close(padded["pixel_values_videos"][:, 8], padded["pixel_values_videos"][:, 7])
        for given in (videos[0], videos):
            with self.assertRaises(ValueError):
                num_frames(given, num_frames=10, short_clips="raise")

    def test_override_instance_attributes_does_not_affect_other_instances(self):
        """The mixin skips processors whose size is Transformers' SizeDict, as it is here; the question stays."""
        first, second = TrajTokVideoProcessor(), TrajTokVideoProcessor()
        before = second.to_dict()
        first.size.height = 96
        self.assertEqual(second.to_dict(), before)
        self.assertEqual(TrajTokVideoProcessor().to_dict(), before)
