"""Embeddings of windows, trajectories and texts in one space, by a TrajViT2 checkpoint.

In:   VideoWindow; texts
Out:  WindowEmbedding (embedding (E,), trajectory embeddings (M, E)), texts (N, E), all of length 1; TrajectoryMap
From: video_windows     To: video_index, answer_sheet
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from evaluation.provenance import checkpoint_record

from modeling_trajtok import TrajViT2Model, TrajViT2Processor, TrajViT2VideoOutput
from modeling_trajtok.processors import TrajectoryMap

from .video_windows import VideoWindow

NOT_OF_THE_PIXELS = ("decoder_backend", "decode_timeout_s", "skip_bad_videos", "return_metadata", "num_frames", "fps")


@dataclass
class WindowEmbedding:
    """What the index keeps of a window.

    Attributes:
        embedding: (E,) float32, of length 1.
        trajectory_ids: (M,) int64, the trajectories that own at least one patch, ascending.
        trajectory_embeddings: (M, E) float32, of length 1.
    """

    embedding: np.ndarray
    trajectory_ids: np.ndarray
    trajectory_embeddings: np.ndarray


class ClipEmbedder:
    """A TrajViT2 checkpoint in a folder or on the Hub, with its processor.

    Attributes:
        record: name and hashes of the checkpoint.
        settings: all else that embeddings of a window depend on.

    Raises:
        ValueError: no such checkpoint can be read.
    """

    def __init__(self, name: str):
        transformers.utils.logging.disable_progress_bar()
        try:
            model = TrajViT2Model.from_pretrained(name).eval()
            self.processor = TrajViT2Processor.from_pretrained(name)
            self.record = checkpoint_record(name)
        except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: weights of another model
            raise ValueError(f"{name}: no TrajViT2 checkpoint can be read; pass --model FOLDER. {error}") from error
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.num_frames = model.config.num_frames
        video_processor = self.processor.video_processor
        by_number = video_processor.sampling_strategy in ("middle", "uniform")
        self.strategy = video_processor.sampling_strategy if by_number else "middle"
        self.timeout_s = video_processor.decode_timeout_s
        pixels = {key: value for key, value in video_processor.to_dict().items() if key not in NOT_OF_THE_PIXELS}
        self.settings = {"num_frames": self.num_frames, **pixels, "sampling_strategy": self.strategy}

    @torch.inference_mode()
    def embed_windows(self, windows: Sequence[VideoWindow]) -> list[WindowEmbedding]:
        """Embed windows of one video together; shorter ones are padded and masked."""
        _, videos = self._run(windows)
        features, valid = self._per_trajectory(videos)
        results = []
        for row, embedding in enumerate(videos.pooler_output.float().cpu().numpy()):
            ids = valid[row].nonzero().flatten()
            results.append(WindowEmbedding(embedding, ids.numpy(), features[row, ids].numpy()))
        return results

    @torch.inference_mode()
    def trajectories(self, window: VideoWindow) -> TrajectoryMap:
        """Where the trajectories of a window are; their numbers are the `trajectory_ids` of its embedding."""
        high_res = self.model.config.trajtok_config.high_res_factor is not None
        inputs, videos = self._run([window], output_high_res=high_res)
        source = {"frames_indices": window.frame_indices, "frame_times_s": window.frame_times_s}
        [tracks] = self.processor.video_processor.post_process_trajectories(
            videos.trajtok_output, [source], [window.frames_uint8.shape[1:3]], inputs["frame_valid"]
        )
        return tracks

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> (N, E) float32; what is longer than the checkpoint reads is cut, with a warning on stderr."""
        tokenizer = self.processor.tokenizer
        positions = getattr(self.model.config.text_config, "max_position_embeddings", None)
        limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
        for text in texts:
            num_tokens = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
            if num_tokens > limit:
                print(f'warning: "{text}" has {num_tokens} tokens and is cut to {limit}.', file=sys.stderr)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        output = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        return output.pooler_output.float().cpu().numpy()

    def _run(self, windows: Sequence[VideoWindow], **options):
        frames = [window.frames_uint8 for window in windows]
        inputs = self.processor.video_processor(frames, do_sample_frames=False, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        return inputs, self.model.get_video_features(**inputs, output_trajectory_features=True, **options)

    def _per_trajectory(self, videos: TrajViT2VideoOutput):
        """Features (B, K, E), the first token of each trajectory standing for it, and which are real (B, K)."""
        shape = (self.model.config.trajtok_config.num_trajectories, -1)
        features, valid = videos.trajectory_features.unflatten(1, shape), videos.token_valid.unflatten(1, shape)
        return features[:, :, 0].float().cpu(), valid[:, :, 0].cpu()
