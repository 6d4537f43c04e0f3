"""Video processing: any video in, pixels (or trajectory tokens) out, and trajectories back to pixels.

In:   paths, URLs, bytes, files, arrays, tensors, lists of pictures, GIFs, pictures; one or a list
Out:  pixel_values_videos (B, T, 3, H_px, W_px) float32, ImageNet-normalised; frame_valid (B, T) bool, valid first;
      with a trajectory tokenizer: trajectory_embeds, token_valid, trajectory_ids instead of pixels
From: frame_decoding, video_inputs     To: TrajTokModel; post_process_trajectories goes the way back
Official: middle-of-segment sampling, bicubic resize to 224x224 without keeping the aspect ratio.
"""

import difflib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from transformers import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .frame_decoding import BACKEND_ORDER, decode_video
from .frame_sampling import SAMPLING_STRATEGIES, FrameTimeline, sample_frame_indices
from .tokenizer_reference import TokenizerReference
from .trajectory_maps import TrajectoryMap
from .trajectory_postprocessing import kept_trajectories, labels_from_ids, labels_from_logits, unflatten_logits
from .video_inputs import frames_to_tensor, list_videos
from .video_sources import VideoDecodeError, is_video_source, source_name

BACKBONE_STRIDE_PX = 32
CHOICES = {
    "sampling_strategy": SAMPLING_STRATEGIES,
    "short_clips": ("pad", "raise"),
    "decoder_backend": ("auto", *BACKEND_ORDER),
}
# Written into saved files by Transformers itself; not settings of ours.
FOREIGN_KEYS = {
    "auto_map",
    "processor_class",
    "video_processor_type",
    "image_processor_type",
    "feature_extractor_type",
}


class TrajTokVideoProcessorKwargs(VideosKwargs, total=False):
    """What Transformers' video processors take, and ours on top.

    Attributes:
        sampling_strategy: "middle" (of `num_frames` equal segments), "uniform", "fps" (follows from `fps`) or "all".
        short_clips: what happens to clips with fewer frames than `num_frames`: "pad" repeats the last frame and
            marks it False in `frame_valid`, "raise" refuses.
        decoder_backend: "auto", "pyav", "torchcodec" or "decord".
        decode_timeout_s: seconds after which a file is given up.
        skip_bad_videos: leave unreadable videos out, and list them under `failures`.
    """

    sampling_strategy: str | None
    short_clips: str | None
    decoder_backend: str | None
    decode_timeout_s: float | int | None
    skip_bad_videos: bool | None


@dataclass
class TrajTokVideoMetadata(VideoMetadata):
    """Where the valid frames of a clip come from.

    Attributes:
        frame_times_s: seconds after the first frame of the source, true for variable frame rates too; None for
            frames in memory whose rate nobody told.
        name: path, URL or kind of the source.
    """

    frame_times_s: list[float] | None = None
    name: str | None = None

    @property
    def timestamps(self) -> list[float]:
        """Times of the sampled frames in seconds."""
        return super().timestamps if self.frame_times_s is None else self.frame_times_s


class TrajTokVideoProcessor(BaseVideoProcessor):
    """Turns videos into the input of `TrajTokModel`, or, given a model, into trajectory tokens.

    Args:
        trajectory_tokenizer: a loaded `TrajTokModel` or its name or path (loaded when first used). With it, calls
            return `trajectory_embeds`, `token_valid` and `trajectory_ids` in place of pixels. Saving keeps the name.
        kwargs: see `TrajTokVideoProcessorKwargs`; each can also be given per call.
    """

    model_input_names = ["pixel_values_videos", "frame_valid"]  # noqa: RUF012 - Transformers' convention
    valid_kwargs = TrajTokVideoProcessorKwargs

    size = {"height": 224, "width": 224}  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_sample_frames = True
    num_frames = 16
    sampling_strategy = "middle"
    short_clips = "pad"
    decoder_backend = "auto"
    decode_timeout_s = 60.0
    skip_bad_videos = False

    def __init__(self, trajectory_tokenizer: Any = None, **kwargs):
        self._reject_unknown(kwargs)
        super().__init__(**_one_sampling_rule(kwargs))
        if self.fps is not None:
            self.num_frames = None
        self._check_settings({name: getattr(self, name) for name in self.valid_kwargs.__annotations__})
        self.trajectory_tokenizer = trajectory_tokenizer

    # --- settings ----------------------------------------------------------------------------------------------------

    @classmethod
    def _reject_unknown(cls, kwargs: dict) -> None:
        known = set(cls.valid_kwargs.__annotations__) | {"trajectory_tokenizer"}
        for name in kwargs:
            if name not in known | FOREIGN_KEYS and not name.startswith("_"):
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(sorted(known))}."
                raise ValueError(f"{cls.__name__} has no setting `{name}`; {hint}")

    @staticmethod
    def _check_settings(settings: dict) -> None:
        for name, allowed in CHOICES.items():
            if settings[name] not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {settings[name]!r}.")
        for name in ("num_frames", "fps", "decode_timeout_s"):
            if settings[name] is not None and settings[name] <= 0:
                raise ValueError(f"{name} must be above 0, got {settings[name]}.")
        if (settings["sampling_strategy"] == "fps") != (settings["fps"] is not None):
            raise ValueError(
                f"sampling_strategy={settings['sampling_strategy']!r} does not go with fps={settings['fps']}. "
                "Pass fps alone to sample by rate, or num_frames with 'middle' or 'uniform'."
            )
        if settings["do_pad"]:
            raise ValueError("do_pad is not supported: frames are resized to `size`, never padded to it.")

    def _settings_for_call(self, kwargs: dict) -> dict:
        self._reject_unknown({name: value for name, value in kwargs.items() if name != "return_tensors"})
        try:
            validate_typed_dict(self.valid_kwargs, kwargs)
        except StrictDataclassError as error:
            raise ValueError(str(error)) from error
        own = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        settings = self._standardize_kwargs(**_one_sampling_rule(kwargs, own))
        self._check_settings(settings)
        self._validate_preprocess_kwargs(**settings)
        return settings

    # --- videos to pixels --------------------------------------------------------------------------------------------

    def preprocess(self, videos: Any, **kwargs) -> BatchFeature:
        """Read, sample, resize and normalise one video or a list of videos.

        Args:
            videos: a path, URL, bytes, file, array, tensor or list of pictures; or a list of those.
            kwargs: settings for this call, see `TrajTokVideoProcessorKwargs`.

        Returns:
            `pixel_values_videos` (B, T, 3, H_px, W_px) float32 and `frame_valid` (B, T) bool, or with a trajectory
            tokenizer `trajectory_embeds` (B, K·L, D), `token_valid` (B, K·L), `trajectory_ids` (B, T, H, W) and
            `frame_valid`. T is `num_frames`, or the longest clip when sampling by rate or taking all frames; a batch
            of single pictures keeps T = 1. With `return_metadata` also `video_metadata`; with `skip_bad_videos` also
            `failures` (dicts with index, video, error) and `kept_videos` (which input each row is).

        Raises:
            ValueError: a setting that does not exist or fit, a bad video (VideoDecodeError for files), clips of
                different sizes after resizing, or no good video at all (its attribute `failures` lists them).
        """
        settings = self._settings_for_call(kwargs)
        videos = list_videos(videos)
        facts = _facts_per_video(settings["video_metadata"], len(videos))
        clips, metadata, kept, failures = [], [], [], []
        for position, (video, fact) in enumerate(zip(videos, facts, strict=True)):
            name = source_name(video) if is_video_source(video) else f"<{type(video).__name__} in memory>"
            try:
                clip, source = self._load_clip(video, name, fact, settings)
            except ValueError as error:
                message = str(error) if isinstance(error, VideoDecodeError) else f"{name}: {str(error).rstrip('.')}."
                if not settings["skip_bad_videos"]:
                    raise type(error)(f"Video {position + 1} of {len(videos)}: {message}") from error
                failures.append({"index": position, "video": name, "error": message})
            else:
                clips.append(clip)
                metadata.append(source)
                kept.append(position)
        if not clips:
            error = ValueError(f"None of the {len(videos)} videos could be read. First: {failures[0]['error']}")
            error.failures = failures
            raise error
        pixels, frame_valid = self._batch(clips, metadata, settings)
        data = {"pixel_values_videos": pixels, "frame_valid": frame_valid}
        if self._tokenizer is not None:
            data = {**self._tokenizer.tokenize(pixels, frame_valid), "frame_valid": frame_valid}
        features = BatchFeature(data, tensor_type=settings["return_tensors"])
        if settings["return_metadata"]:
            features["video_metadata"] = metadata
        if settings["skip_bad_videos"]:
            features["failures"], features["kept_videos"] = failures, kept
        return features

    def _load_clip(self, video: Any, name: str, fact: VideoMetadata | dict | None, settings: dict):
        """One video → pixels (T, 3, H_px, W_px) float32 and where they come from."""

        def choose_frames(timeline: FrameTimeline) -> np.ndarray:
            # A still picture is one frame whatever is asked for; it has no rate to sample by.
            if not settings["do_sample_frames"] or timeline.total_num_frames == 1:
                return np.arange(timeline.total_num_frames)
            return sample_frame_indices(
                timeline,
                num_frames=settings["num_frames"],
                fps=settings["fps"],
                strategy=settings["sampling_strategy"],
            )

        convert = bool(settings["do_convert_rgb"])
        if is_video_source(video):
            options = {"backend": settings["decoder_backend"], "timeout_s": settings["decode_timeout_s"]}
            decoded = decode_video(video, choose_frames, **options)
            frames = frames_to_tensor(decoded.frames_uint8, do_convert_rgb=convert, channels="channels_last")
            total, fps, backend = decoded.total_num_frames, decoded.source_fps, decoded.backend
            duration_s = decoded.duration_s
            indices, times_s = decoded.frame_indices, decoded.frame_times_s.tolist()
        else:
            frames = frames_to_tensor(video, do_convert_rgb=convert, channels=_channels(settings["input_data_format"]))
            total, fps, backend = len(frames), None if fact is None else fact["fps"], None
            timeline = FrameTimeline.at_rate(total, fps)
            duration_s = timeline.duration_s
            indices = choose_frames(timeline)
            times_s = None if timeline.frame_times_s is None else timeline.frame_times_s[indices].tolist()
            frames = frames[torch.from_numpy(indices)]
        self._refuse_short(total, settings)
        metadata = TrajTokVideoMetadata(
            total_num_frames=total,
            fps=fps,
            height=frames.shape[-2],
            width=frames.shape[-1],
            duration=duration_s,
            video_backend=backend,
            frames_indices=indices.tolist(),
            frame_times_s=times_s,
            name=name,
        )
        if settings["device"] is not None:
            frames = frames.to(settings["device"])
        return self._to_pixels(frames, settings), metadata

    @staticmethod
    def _refuse_short(total_num_frames: int, settings: dict) -> None:
        wanted = settings["num_frames"]
        by_number = settings["do_sample_frames"] and settings["sampling_strategy"] in ("middle", "uniform")
        if by_number and settings["short_clips"] == "raise" and total_num_frames < wanted:
            raise ValueError(
                f"the clip has {total_num_frames} frames, fewer than num_frames={wanted}. "
                "Ask for fewer frames, or pass short_clips='pad'"
            )

    def _to_pixels(self, frames: torch.Tensor, settings: dict) -> torch.Tensor:
        if settings["do_resize"]:
            height, width = _target_size(settings["size"], frames.shape[-2:])
            frames = self.resize(frames, SizeDict(height=height, width=width), resample=settings["resample"])
            if frames.is_floating_point():
                frames = frames.clamp(0, 1)  # bicubic overshoots at sharp edges
        if settings["do_center_crop"]:
            frames = self.center_crop(frames, settings["crop_size"])
        if min(frames.shape[-2:]) < BACKBONE_STRIDE_PX:
            raise ValueError(
                f"frames of {frames.shape[-2]}x{frames.shape[-1]} px (height x width) are too small for the model; "
                f"expected at least {BACKBONE_STRIDE_PX} on each side. Set do_resize=True or a larger size"
            )
        pixels = self.rescale_and_normalize(
            frames,
            # Floats in memory are in [0, 1] already.
            settings["do_rescale"] and not frames.is_floating_point(),
            settings["rescale_factor"],
            settings["do_normalize"],
            settings["image_mean"],
            settings["image_std"],
        )
        return pixels.float()

    @staticmethod
    def _batch(clips: list[torch.Tensor], metadata: list, settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad in time by the last frame and stack: (B, T, 3, H_px, W_px) and frame_valid (B, T)."""
        sizes = {tuple(clip.shape[-2:]): source.name for clip, source in zip(clips, metadata, strict=True)}
        if len(sizes) > 1:
            listed = "; ".join(f"{height}x{width} ({name})" for (height, width), name in sizes.items())
            raise ValueError(
                f"Clips of one batch must have one size, got (height x width): {listed}. "
                'Pass size={"height": ..., "width": ...}, or process clips of different shape in separate calls.'
            )
        lengths = torch.tensor([len(clip) for clip in clips])
        longest = int(lengths.max())
        if longest > 1 and settings["do_sample_frames"] and settings["sampling_strategy"] in ("middle", "uniform"):
            longest = settings["num_frames"]
        padded = [torch.cat([clip, clip[-1:].expand(longest - len(clip), -1, -1, -1)]) for clip in clips]
        pixels = torch.stack(padded)
        return pixels, (torch.arange(longest) < lengths[:, None]).to(pixels.device)

    # --- trajectory tokens -------------------------------------------------------------------------------------------

    @property
    def trajectory_tokenizer(self) -> str | None:
        """Name or path of the model that turns pixels into trajectory tokens; None = calls return pixels."""
        return None if self._tokenizer is None else self._tokenizer.name_or_path

    @trajectory_tokenizer.setter
    def trajectory_tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = None if tokenizer is None else TokenizerReference(tokenizer)

    @classmethod
    def from_dict(cls, video_processor_dict: dict, **kwargs):
        """Build from a saved dictionary; `kwargs` replace saved settings."""
        # Transformers passes loading options through here, so only what looks like a setting of ours is refused.
        settings = cls.valid_kwargs.__annotations__
        cls._reject_unknown({n: v for n, v in kwargs.items() if difflib.get_close_matches(n, settings, 1, 0.8)})
        given = {n: kwargs.pop(n) for n in (*settings, "trajectory_tokenizer") if n in kwargs}
        return super().from_dict(_one_sampling_rule(given, video_processor_dict), **kwargs)

    def to_dict(self) -> dict:
        """All settings, with the name of the trajectory tokenizer in place of the model."""
        if self._tokenizer is not None and not self.trajectory_tokenizer:
            raise ValueError(
                "The trajectory tokenizer was never saved, so the processor has no name to keep for it. "
                "Save the model, then set `processor.trajectory_tokenizer = <its folder or name>` (or None)."
            )
        return self._described()

    def _described(self) -> dict:
        settings = super().to_dict()
        settings.pop("_tokenizer", None)
        if self._tokenizer is not None:
            settings["trajectory_tokenizer"] = self.trajectory_tokenizer
        return settings

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self._described(), indent=2, sort_keys=True)}\n"

    # --- and back ----------------------------------------------------------------------------------------------------

    def post_process_trajectories(
        self,
        outputs: Any,
        video_metadata: list | None = None,
        source_sizes_hw: list[tuple[int, int]] | None = None,
        frame_valid: torch.Tensor | None = None,
        min_area_fraction: float = 0.0,
    ) -> list[TrajectoryMap]:
        """Bring trajectories back to the pixels of their source.

        Args:
            outputs: of `TrajTokModel`, or what this processor returned with a trajectory tokenizer. The logits (the
                high-resolution ones when present) are enlarged bilinearly; without logits the ids by nearest patch.
            video_metadata: `video_metadata` of the call (`return_metadata=True`): sizes, frame indices and times.
            source_sizes_hw: (height, width) in pixels per clip; needed without `video_metadata`, else overrides it.
            frame_valid: (B, T) bool, drops padded frames; without it they are known by id -1.
            min_area_fraction: trajectories with a smaller share of the clip's patches lose their pixels to the next
                best (without logits: to none, -1).

        Returns:
            One map per clip. Without times in the metadata, a frame's time is its index.

        Raises:
            ValueError: sizes are missing, or counts do not fit the outputs.
        """
        if not 0 <= min_area_fraction < 1:
            raise ValueError(f"min_area_fraction must be in [0, 1), got {min_area_fraction}.")
        ids = outputs["trajectory_ids"]
        for name, given in (("video_metadata", video_metadata), ("source_sizes_hw", source_sizes_hw)):
            if given is not None and len(given) != len(ids):
                raise ValueError(f"{name} has {len(given)} entries for {len(ids)} clips; pass one per clip.")
        if video_metadata is None and source_sizes_hw is None:
            raise ValueError(
                "Pass video_metadata (from return_metadata=True) or source_sizes_hw: the size is unknown."
            )
        if frame_valid is None:
            frame_valid = (ids >= 0).flatten(2).any(dim=2)
        if tuple(frame_valid.shape) != tuple(ids.shape[:2]):
            raise ValueError(f"frame_valid must be (B, T) = {tuple(ids.shape[:2])}, got {tuple(frame_valid.shape)}.")
        logits = outputs.get("assignment_logits_high_res")
        logits = outputs.get("assignment_logits") if logits is None else logits
        maps = []
        for b, num_frames in enumerate(frame_valid.sum(dim=1).tolist()):
            source = {} if video_metadata is None else video_metadata[b]
            size_hw = (source["height"], source["width"]) if source_sizes_hw is None else tuple(source_sizes_hw[b])
            clip_ids = ids[b, :num_frames]
            kept = kept_trajectories(clip_ids, min_area_fraction)
            if logits is None:
                labels = labels_from_ids(clip_ids, kept, size_hw)
            else:
                grid = unflatten_logits(logits[b].detach(), tuple(ids.shape[1:]))
                labels = labels_from_logits(grid[:num_frames], kept, size_hw)
            indices = _or_default(source, "frames_indices", range(num_frames))
            times_s = _or_default(source, "frame_times_s", indices)
            maps.append(TrajectoryMap(labels, np.array(times_s, np.float64), np.array(indices, np.int64)))
        return maps


def _one_sampling_rule(given: dict, saved: dict | None = None) -> dict:
    """Merge settings so that `fps` and `num_frames` replace each other: the one given last counts."""
    merged = {**(saved or {}), **given}
    if given.get("fps") is not None:
        if given.get("num_frames") is not None:
            raise ValueError(f"Got num_frames={given['num_frames']} and fps={given['fps']}; pass one of the two.")
        merged["num_frames"] = None
        merged["sampling_strategy"] = given.get("sampling_strategy") or "fps"
    elif given.get("num_frames") is not None or given.get("sampling_strategy") not in (None, "fps"):
        merged["fps"] = None
        if merged.get("sampling_strategy") == "fps" and given.get("sampling_strategy") is None:
            merged["sampling_strategy"] = TrajTokVideoProcessor.sampling_strategy
    if merged.get("sampling_strategy") in ("middle", "uniform") and merged.get("num_frames") is None:
        merged["num_frames"] = TrajTokVideoProcessor.num_frames
    return merged


def _facts_per_video(video_metadata: Any, num_videos: int) -> list:
    if video_metadata is None:
        return [None] * num_videos
    facts = video_metadata if isinstance(video_metadata, (list, tuple)) else [video_metadata]
    if len(facts) != num_videos:
        raise ValueError(f"video_metadata has {len(facts)} entries for {num_videos} videos; pass one per video.")
    return [fact if isinstance(fact, VideoMetadata) else {"fps": None, **fact} for fact in facts]


def _target_size(size: SizeDict, source_hw: tuple[int, int]) -> tuple[int, int]:
    if size.height and size.width:
        return size.height, size.width
    if not size.shortest_edge or size.longest_edge:
        raise ValueError(f'size must be {{"height", "width"}} or {{"shortest_edge"}}, got {dict(size)}')
    scale = size.shortest_edge / min(source_hw)
    height, width = (max(1, round(side * scale / BACKBONE_STRIDE_PX)) * BACKBONE_STRIDE_PX for side in source_hw)
    return height, width


def _channels(input_data_format: Any) -> str | None:
    return None if input_data_format is None else str(getattr(input_data_format, "value", input_data_format))


def _or_default(source: Any, name: str, default: Any) -> Any:
    value = source[name] if name in tuple(source) else None
    return default if value is None else value


__all__ = ["TrajTokVideoMetadata", "TrajTokVideoProcessor", "TrajTokVideoProcessorKwargs"]
