"""Transformers' own common tests of video processors, run on `TrajTokVideoProcessor`."""

import sys
import unittest
from pathlib import Path

from modeling_trajtok import TrajTokVideoProcessor

sys.path.append(str(Path(__file__).parent))
from transformers_mixins import load_mixins

VideoProcessingTestMixin, prepare_video_inputs = load_mixins(
    "test_video_processing_common.VideoProcessingTestMixin", "test_video_processing_common.prepare_video_inputs"
)


class VideoProcessorTester:
    """Settings of a small processor, and videos to put into it."""

    batch_size, num_frames, num_channels = 5, 8, 3

    def __init__(self):
        self.settings = {"size": {"height": 64, "width": 96}, "num_frames": 4, "do_normalize": False}

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=40,
            max_resolution=80,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, videos):
        return 4, 3, 64, 96


class TrajTokVideoProcessorCommonTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = TrajTokVideoProcessor
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessorTester()

    @property
    def video_processor_dict(self):
        return dict(self.video_processor_tester.settings)
