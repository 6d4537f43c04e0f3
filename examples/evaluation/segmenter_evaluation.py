"""Judge a segmenter on clips with ground truth, at the resolution of the clips.

In:   a TrajTok model, its video processor, clips (ClipRecord)
Out:  one dict of scores per clip (see trajectory_metrics)
To:   train_trajtok.py, evaluate_trajectories.py
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from trajectory_data import ClipRecord
from transformers import PreTrainedModel

from modeling_trajtok import TrajTokVideoProcessor

from .trajectory_metrics import evaluate_clip


@torch.no_grad()
def predict_ids(model: PreTrainedModel, processor: TrajTokVideoProcessor, frames_uint8: np.ndarray) -> np.ndarray:
    """Frames (T, H_px, W_px, 3) -> trajectory of each pixel (T, H_px, W_px), 0 ... K-1."""
    inputs = processor(frames_uint8, sampling_strategy="all", return_metadata=True, return_tensors="pt")
    outputs = model(inputs["pixel_values_videos"].to(model.device))
    return processor.post_process_trajectories(outputs, inputs["video_metadata"])[0].labels


def evaluate_segmenter(
    model: PreTrainedModel, processor: TrajTokVideoProcessor, clips: Iterable[ClipRecord]
) -> Iterator[dict[str, float]]:
    """Scores of each clip, one after the other; the model is in evaluation mode meanwhile."""
    was_training = model.training
    model.eval()
    for clip in clips:
        prediction = predict_ids(model, processor, clip.frames_uint8)
        yield {
            **evaluate_clip(prediction + 1, clip.trajectory_ids),
            "valid_trajectories": float(len(np.unique(prediction))),
        }
    model.train(was_training)
