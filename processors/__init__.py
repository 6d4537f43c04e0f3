"""Video in, tensors out, trajectories back to pixels. Installed as ``modeling_trajtok.processors``."""

from .decoder_backends import DecodedVideo
from .frame_decoding import BACKEND_ORDER, decode_video, usable_backends
from .frame_sampling import SAMPLING_STRATEGIES, FrameTimeline, sample_frame_indices
from .processing_trajvit2 import TrajViT2Processor
from .processing_trajvlm import TrajVLMProcessor
from .trajectory_maps import TrajectoryMap, decode_coco_rle, encode_coco_rle
from .video_processing_trajtok import (
    TrajTokVideoMetadata,
    TrajTokVideoProcessor,
    TrajTokVideoProcessorKwargs,
)
from .video_sources import MachineError, VideoDecodeError, VideoTimeoutError

__all__ = [
    "BACKEND_ORDER",
    "SAMPLING_STRATEGIES",
    "DecodedVideo",
    "FrameTimeline",
    "MachineError",
    "TrajTokVideoMetadata",
    "TrajTokVideoProcessor",
    "TrajTokVideoProcessorKwargs",
    "TrajVLMProcessor",
    "TrajViT2Processor",
    "TrajectoryMap",
    "VideoDecodeError",
    "VideoTimeoutError",
    "decode_coco_rle",
    "decode_video",
    "encode_coco_rle",
    "sample_frame_indices",
    "usable_backends",
]
