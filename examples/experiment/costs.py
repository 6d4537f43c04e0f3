"""What a system costs: FLOPs of a training step; FLOPs, tokens, latency and peak memory of looking at one clip.

In:   a model, batches or frames
Out:  plain numbers
To:   controlled_experiment.py
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from evaluation.measuring import PeakMemory, flops_of, seconds_of
from torch import Tensor
from training.contrastive_training import ContrastiveTraining
from trajectory_data import ClipRecord

from modeling_trajtok import TrajViT2Model

from .scores import video_inputs


def training_flops(module: ContrastiveTraining, batches: Sequence[dict[str, Tensor]]) -> float:
    """FLOPs of a forward and a backward pass, the mean over batches; the gradients are thrown away.

    A clip costs what its own tokens cost, as if clips with fewer tokens were packed and not padded.
    """

    def look(inputs: dict[str, Tensor]) -> None:
        module.model.get_video_features(**inputs).pooler_output.sum().backward()

    flops = 0
    for batch in batches:
        videos = {name: batch[name] for name in ("pixel_values_videos", "trajectory_ids") if name in batch}
        alone = [{name: value[row : row + 1] for name, value in videos.items()} for row in range(len(batch["idx"]))]
        flops += flops_of(lambda batch=batch: module(**batch)["loss"].backward())
        flops += sum(flops_of(lambda own=own: look(own)) for own in alone)
        flops -= flops_of(lambda videos=videos: look(videos))
    module.zero_grad()
    return flops / len(batches)


def inference_costs(build: Callable[[], TrajViT2Model], clips: Sequence[ClipRecord]) -> dict[str, float]:
    """From the pixels of one clip to its embedding, on this process's CPU threads.

    Call it in a process of its own: the peak is that of the process.

    Returns:
        gflop, tokens, seconds: means over the clips (seconds: of each the median of three calls);
        peak_mb: above the weights, of all clips one after the other.
    """
    model = build().eval().requires_grad_(False)
    inputs = [video_inputs(model, one.frames_uint8[None], one.trajectory_ids[None]) for one in clips]
    with torch.no_grad():
        memory, tokens = PeakMemory("cpu"), []
        for own in inputs:
            tokens.append(int(model.get_video_features(**own).token_valid.sum()))
        peak = memory.bytes()
        seconds = [seconds_of(lambda own=own: model.get_video_features(**own), 3, "cpu") for own in inputs]
        flops = sum(flops_of(lambda own=own: model.get_video_features(**own)) for own in inputs)
    return {
        "gflop": flops / len(inputs) / 1e9,
        "tokens": float(np.mean(tokens)),
        "seconds": float(np.mean(seconds)),
        "peak_mb": peak / 1e6,
    }
