"""Video processing: any video in, pixels (or trajectory tokens) out, and trajectories back to pixels.

In:   paths, URLs, bytes, files, arrays, tensors, lists of pictures, GIFs, pictures; one or a list
Out:  pixel_values_videos (B, T, 3, H_px, W_px) float32, ImageNet-normalised; frame_valid (B, T) bool, valid first;
      with a trajectory tokenizer: trajectory_embeds, token_valid, trajectory_ids instead of pixels
From: frame_decoding, video_inputs     To: TrajTokModel; post_process_trajectories goes the way back
Official: middle-of-segment sampling, bicubic resize to 224x224 without keeping the aspect ratio.
"""

import difflib
import json
import numbers
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor

from .decoder_backends import DecodedVideo
from .frame_decoding import decode_video
from .frame_sampling import FrameTimeline, sample_frame_indices
from .open_decoders import read_open_decoder
from .picture_frames import read_pictures
from .setting_checks import CHECKS, check_settings, plain
from .tokenizer_reference import TokenizerReference
from .trajectory_maps import NO_TRAJECTORY, TrajectoryMap
from .trajectory_postprocessing import (
    checked_outputs,
    checked_size_hw,
    frames_of_clip,
    kept_trajectories,
    labels_from_ids,
    labels_from_logits,
    unflatten_logits,
)
from .video_facts import TrajTokVideoMetadata, describe_frames, facts_per_video, flatten_facts
from .video_inputs import as_source, flatten_videos, frames_to_tensor, is_animation, is_decoder, video_name
from .video_sources import (
    MachineError,
    VideoDecodeError,
    VideoTimeoutError,
    is_machine_error,
    is_video_source,
    machine_error,
)

logger = logging.get_logger(__name__)

BACKBONE_STRIDE_PX = 32
MAX_BYTES_OF_BATCH = 4  # times those of one clip
RESIZED_VALUES_AT_A_TIME = 1 << 25  # source values that are resized between two looks at the clock
# Written into saved files by Transformers itself; not settings of ours.
FOREIGN_KEYS = {
    "auto_map",
    "processor_class",
    "video_processor_type",
    "image_processor_type",
    "feature_extractor_type",
}
BY_NUMBER = ("middle", "uniform")


class TrajTokVideoProcessorKwargs(VideosKwargs, total=False):
    """What Transformers' video processors take, and ours on top; `setting_checks` says what each may be.

    Attributes:
        sampling_strategy: "middle" (of `num_frames` equal segments), "uniform", "fps" (follows from `fps`) or "all".
        short_clips: what happens to clips with fewer frames than `num_frames`: "pad" repeats the last frame and
            marks it False in `frame_valid`, "raise" refuses.
        decoder_backend: "auto", "pyav", "torchcodec" or "decord".
        decode_timeout_s: seconds after which a video is given up: reading, decoding and resizing together.
        max_bytes: memory that one video may take: its chosen frames as decoded (one byte for each colour of a pixel),
            and its resized pixels (four bytes); a batch may take four times as much. The default is 4 GiB: 7,000
            frames of 224x224 px, or 2,500 of 378x378 px.
        skip_bad_videos: leave unreadable videos out, and list them under `failures`.
    """

    sampling_strategy: Any
    short_clips: Any
    decoder_backend: Any
    decode_timeout_s: Any
    max_bytes: Any
    skip_bad_videos: Any
    # Those of Transformers once more: processors would refuse numpy's numbers before the video processor sees them.
    num_frames: Any
    fps: Any
    video_metadata: Any
    do_sample_frames: Any
    do_convert_rgb: Any
    do_resize: Any
    size: Any
    resample: Any
    do_center_crop: Any
    crop_size: Any
    do_rescale: Any
    rescale_factor: Any
    do_normalize: Any
    image_mean: Any
    image_std: Any
    device: Any
    input_data_format: Any
    return_metadata: Any


class TrajTokVideoProcessor(BaseVideoProcessor):
    """Turns videos into the input of `TrajTokModel`, or, given a model, into trajectory tokens.

    Args:
        trajectory_tokenizer: a loaded `TrajTokModel` or its name or path (loaded when first used). With it, calls
            return `trajectory_embeds`, `token_valid` and `trajectory_ids` in place of pixels. Saving keeps the name.
        kwargs: see `TrajTokVideoProcessorKwargs`; each can also be given per call, where None for `num_frames`,
            `fps` or `sampling_strategy` means the processor's own. Numpy's numbers are taken as plain ones.

    Raises:
        ValueError: a setting that does not exist, has a wrong type or range, or does not go with another one. Loading
            and calls check the same.
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
    max_bytes = 4 << 30
    skip_bad_videos = False

    def __init__(self, trajectory_tokenizer: Any = None, **kwargs):
        self._reject_unknown(kwargs, {"trajectory_tokenizer"} | FOREIGN_KEYS)
        kwargs = check_settings(kwargs)
        if kwargs.get("video_metadata") is not None:
            raise ValueError("video_metadata tells about the videos of one call; pass it with the call.")
        super().__init__(**kwargs | self._one_sampling_rule(kwargs, self._class_sampling()))
        self._check_together({name: getattr(self, name) for name in self.valid_kwargs.__annotations__})
        self.trajectory_tokenizer = trajectory_tokenizer

    # --- settings ----------------------------------------------------------------------------------------------------

    @classmethod
    def _reject_unknown(cls, kwargs: dict, more_known: set[str]) -> None:
        known = set(cls.valid_kwargs.__annotations__) | more_known
        for name in kwargs:
            if name not in known and not name.startswith("_"):
                close = difflib.get_close_matches(name, known - FOREIGN_KEYS, n=1)
                listed = ", ".join(sorted(known - FOREIGN_KEYS))
                hint = f"did you mean `{close[0]}`?" if close else f"known: {listed}."
                raise ValueError(f"{cls.__name__} has no setting `{name}`; {hint}")

    @classmethod
    def _class_sampling(cls) -> dict:
        return {name: getattr(cls, name, None) for name in ("sampling_strategy", "num_frames", "fps")}

    @classmethod
    def _one_sampling_rule(cls, given: dict, base: dict) -> dict:
        """The three sampling settings, so that a rate and a number replace each other: what is given goes first.

        Args:
            given: settings of the caller; what does not go together among them is an error.
            base: settings that they replace.
        """
        strategy, num_frames, fps = (given.get(name) for name in ("sampling_strategy", "num_frames", "fps"))
        if fps is not None and num_frames is not None:
            raise ValueError(f"Got num_frames={num_frames} and fps={fps}; pass one of the two.")
        if fps is not None and strategy not in (None, "fps"):
            raise ValueError(
                f"sampling_strategy={strategy!r} does not go with fps={fps}. Pass fps alone to sample by rate, or "
                "num_frames with 'middle' or 'uniform'."
            )
        if num_frames is not None and strategy in ("fps", "all"):
            other = "fps=None; it takes fps" if strategy == "fps" else f"num_frames={num_frames}; it takes every frame"
            raise ValueError(
                f"sampling_strategy={strategy!r} does not go with {other}. Pass num_frames with 'middle' or 'uniform'."
            )
        if fps is not None:
            return {"sampling_strategy": "fps", "num_frames": None, "fps": fps}
        if strategy is None and num_frames is None:
            return {name: base.get(name) for name in ("sampling_strategy", "num_frames", "fps")}
        if strategy is None:
            strategy = base.get("sampling_strategy")
            strategy = strategy if strategy in BY_NUMBER else TrajTokVideoProcessor.sampling_strategy
        if strategy in BY_NUMBER:
            num_frames = num_frames or base.get("num_frames") or TrajTokVideoProcessor.num_frames
        return {
            "sampling_strategy": strategy,
            "num_frames": num_frames if strategy in BY_NUMBER else None,
            "fps": base.get("fps") if strategy == "fps" else None,
        }

    @staticmethod
    def _check_together(settings: dict) -> None:
        for name in ("sampling_strategy", "short_clips", "decoder_backend", "decode_timeout_s", "max_bytes"):
            CHECKS[name](name, settings[name])  # None is no choice
        strategy, num_frames, fps = settings["sampling_strategy"], settings["num_frames"], settings["fps"]
        if (strategy == "fps") != (fps is not None) or (strategy in BY_NUMBER) != (num_frames is not None):
            raise ValueError(
                f"sampling_strategy={strategy!r} does not go with num_frames={num_frames} and fps={fps}. Pass fps "
                "alone to sample by rate, or num_frames with 'middle' or 'uniform'."
            )
        if settings["do_pad"]:
            raise ValueError("do_pad is not supported: frames are resized to `size`, never padded to it.")
        needed = {
            "do_resize": ("size", "resample"),
            "do_center_crop": ("crop_size",),
            "do_rescale": ("rescale_factor",),
            "do_normalize": ("image_mean", "image_std"),
        }
        for step, names in needed.items():
            for name in names:
                if settings[step] and settings[name] is None:
                    raise ValueError(f"{name} is None, but {step} is True; set {name}, or {step}=False.")
        size = settings["size"]
        if settings["do_resize"] and not settings["do_center_crop"] and isinstance(size, (dict, SizeDict)):
            height, width = dict(size).get("height"), dict(size).get("width")
            if height and width:
                _refuse_small((height, width))

    def _settings_for_call(self, kwargs: dict) -> dict:
        if "trajectory_tokenizer" in kwargs:
            raise ValueError("trajectory_tokenizer belongs to the processor: set `processor.trajectory_tokenizer`.")
        self._reject_unknown(kwargs, set())
        own = check_settings({name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__})
        given = check_settings(kwargs)
        settings = own | given | self._one_sampling_rule(given, own)
        self._check_together(settings)
        return self._standardize_kwargs(**settings)

    # --- videos to pixels --------------------------------------------------------------------------------------------

    def preprocess(self, videos: Any, **kwargs) -> BatchFeature:
        """Read, sample, resize and normalise one video or a list of videos.

        Args:
            videos: a path, URL, bytes, file, array, tensor, picture or list of pictures; a decoder of torchcodec, a
                dict with "path" or "bytes", or a column of `datasets`; or a list of those, nested or not.
            kwargs: settings for this call, see `TrajTokVideoProcessorKwargs`. `video_metadata` has an entry for each
                video: what it says of frames in memory (fps, duration, total_num_frames, frames_indices,
                frame_times_s, height and width of their source) is kept. Files and decoders speak for themselves;
                of them, with do_sample_frames=False, its `frames_indices` are the frames to take.

        Returns:
            `pixel_values_videos` (B, T, 3, H_px, W_px) float32 and `frame_valid` (B, T) bool, or with a trajectory
            tokenizer `trajectory_embeds` (B, K·L, D), `token_valid` (B, K·L), `trajectory_ids` (B, T, H, W) and
            `frame_valid`. T is `num_frames`, or the longest clip when sampling by rate or taking all frames; a batch
            of single pictures keeps T = 1. With `return_metadata` also `video_metadata`; with `skip_bad_videos` also
            `failures` (dicts with index, video, error) and `kept_videos` (which input each row is).

        Raises:
            ValueError: a setting that does not exist or fit, a bad video (VideoDecodeError for files), facts that do
                not fit the frames, clips of different sizes after resizing, no good video at all (its attribute
                `failures` lists them), or more than fits into `max_bytes`.
            MachineError: this machine could not read a video now (full disk, too many open files, no decoder); it is
                no bad video, and is not skipped.
        """
        settings = self._settings_for_call(kwargs)
        _check_usable(settings["device"])
        videos = flatten_videos(videos, keep_empty=True)
        facts = facts_per_video(settings["video_metadata"], len(videos))
        clips, metadata, kept, failures = [], [], [], []
        for position, (video, fact) in enumerate(zip(videos, facts, strict=True)):
            name = video_name(video)
            try:
                clip, source = self._load_clip(video, name, fact, settings)
            except ValueError as error:
                message = str(error)
                if not message.startswith(name):
                    message = f"{name}: {message.rstrip('.')}."
                if not settings["skip_bad_videos"]:
                    kind = type(error) if isinstance(error, VideoDecodeError) else ValueError
                    raise kind(f"Video {position + 1} of {len(videos)}: {message}") from error
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

    def sample_frames(self, metadata: Any, num_frames: int | None = None, fps: float | None = None, **kwargs):
        """Indices (T,) of the frames that a call with these settings takes from a video with these facts.

        Args:
            metadata: `total_num_frames`, and for sampling by rate `fps`, of the video.
            num_frames: frames wanted, as in a call.
            fps: frames per second wanted, as in a call.
            kwargs: further settings of a call, such as `sampling_strategy`.
        """
        settings = self._settings_for_call({"num_frames": num_frames, "fps": fps, **kwargs})
        (facts,) = facts_per_video(metadata, 1)
        if "total_num_frames" not in facts:
            raise ValueError("metadata has no total_num_frames; pass the number of frames of the video.")
        timeline = FrameTimeline.at_rate(facts["total_num_frames"], facts.get("fps"))
        return self._chosen_frames(timeline, settings)

    @staticmethod
    def _chosen_frames(timeline: FrameTimeline, settings: dict) -> np.ndarray:
        # A still picture is one frame whatever is asked for; it has no rate to sample by.
        if not settings["do_sample_frames"] or timeline.total_num_frames == 1:
            return np.arange(timeline.total_num_frames)
        return sample_frame_indices(
            timeline,
            num_frames=settings["num_frames"],
            fps=settings["fps"],
            strategy=settings["sampling_strategy"],
        )

    def _load_clip(self, video: Any, name: str, fact: dict, settings: dict):
        """One video → pixels (T, 3, H_px, W_px) float32 and where they come from."""
        deadline = time.monotonic() + settings["decode_timeout_s"]
        video = as_source(video)
        try:
            if is_video_source(video) or is_decoder(video) or is_animation(video):
                frames, metadata = self._read_source(video, name, fact, settings, deadline)
            else:
                frames, metadata = self._take_frames(video, name, fact, settings)
        except MachineError:
            raise
        except (OSError, EOFError, SyntaxError) as error:  # Pillow reads an opened picture when its pixels are wanted
            if is_machine_error(error):
                raise machine_error(name, error) from error
            raise VideoDecodeError(f"{name}: cannot be read ({error}).") from error
        return self._to_pixels(frames, settings, name, deadline), metadata

    def _read_source(self, video: Any, name: str, fact: dict, settings: dict, deadline: float):
        """The chosen frames of a file, an open decoder or an animated picture."""

        def choose_frames(timeline: FrameTimeline, source_hw: tuple[int, int] | None = None) -> np.ndarray:
            total = timeline.total_num_frames
            if fact.get("total_num_frames", total) != total:
                raise ValueError(f"has {total} frames, but video_metadata says {fact['total_num_frames']}")
            self._refuse_short(total, settings)
            if "frames_indices" in fact and not settings["do_sample_frames"]:
                indices = fact["frames_indices"]
                if indices[-1] >= total:
                    raise ValueError(f"has {total} frames, but video_metadata has frames_indices up to {indices[-1]}")
            else:
                indices = self._chosen_frames(timeline, settings)
            if settings["do_resize"] and settings["size"].height and not settings["do_center_crop"]:
                padded = settings["num_frames"] if total > 1 and _takes_a_number(settings) else len(indices)
                _refuse_large(padded, (settings["size"].height, settings["size"].width), settings)
            if source_hw is not None:
                _refuse_large(len(indices), source_hw, settings, bytes_per_value=1)
            return indices

        def check_time() -> None:
            if time.monotonic() > deadline:
                raise VideoTimeoutError(
                    f"{name}: decoding did not end within {settings['decode_timeout_s']:g} s; raise "
                    "`decode_timeout_s` for long videos."
                )

        if is_video_source(video):
            decoded = decode_video(
                video,
                choose_frames,
                backend=settings["decoder_backend"],
                timeout_s=settings["decode_timeout_s"],
                max_bytes=settings["max_bytes"],
            )
        elif is_decoder(video):
            facts = video.metadata
            bounded = partial(choose_frames, source_hw=(facts.height or 0, facts.width or 0))
            decoded = read_open_decoder(video, bounded, check_time, by_time_stamps=settings["fps"] is not None)
        else:
            bounded = partial(choose_frames, source_hw=(video.height, video.width))
            frames, indices, timeline = read_pictures(video, bounded, check_time)
            times_s = timeline.frame_times_s[indices]
            total, duration_s = timeline.total_num_frames, timeline.duration_s
            decoded = DecodedVideo(frames, indices, times_s, timeline.fps, duration_s, total, "pillow")
        frames = frames_to_tensor(decoded.frames_uint8, do_convert_rgb=True, channels="channels_last")
        height, width = decoded.source_size_hw
        return frames, TrajTokVideoMetadata(
            total_num_frames=decoded.total_num_frames,
            fps=decoded.source_fps,
            height=height,
            width=width,
            duration=decoded.duration_s,
            video_backend=decoded.backend,
            frames_indices=decoded.frame_indices.tolist(),
            frame_times_s=decoded.frame_times_s.tolist(),
            name=name,
        )

    def _take_frames(self, video: Any, name: str, fact: dict, settings: dict):
        """The chosen frames of those in memory."""
        facts, chosen = None, None

        def choose_frames(total: int) -> np.ndarray:
            nonlocal facts, chosen
            facts = describe_frames(fact, total)
            self._refuse_short(total, settings)
            chosen = self._chosen_frames(facts.timeline, settings)
            return chosen

        frames = frames_to_tensor(
            video,
            do_convert_rgb=bool(settings["do_convert_rgb"]),
            channels=settings["input_data_format"],
            choose_frames=choose_frames,
        )
        times_s = facts.timeline.frame_times_s
        height, width = facts.size_hw or frames.shape[-2:]
        metadata = TrajTokVideoMetadata(
            total_num_frames=facts.total_num_frames,
            fps=facts.fps,
            height=height,
            width=width,
            duration=facts.duration_s,
            video_backend=fact.get("video_backend"),
            frames_indices=facts.frame_indices[chosen].tolist(),
            frame_times_s=None if times_s is None else times_s[chosen].tolist(),
            name=facts.name or name,
        )
        return frames, metadata

    @staticmethod
    def _refuse_short(total_num_frames: int, settings: dict) -> None:
        wanted = settings["num_frames"]
        if _takes_a_number(settings) and settings["short_clips"] == "raise" and total_num_frames < wanted:
            raise ValueError(
                f"the clip has {total_num_frames} frames, fewer than num_frames={wanted}. "
                "Ask for fewer frames, or pass short_clips='pad'"
            )

    def _to_pixels(self, frames: torch.Tensor, settings: dict, name: str, deadline: float) -> torch.Tensor:
        """Resize, crop and normalise (T, 3, H_px, W_px), a few frames at a time."""
        source_hw = tuple(frames.shape[-2:])
        resized_hw = _target_size(settings["size"], source_hw) if settings["do_resize"] else source_hw
        final_hw = resized_hw
        if settings["do_center_crop"]:
            final_hw = settings["crop_size"].height, settings["crop_size"].width
            if final_hw[0] > resized_hw[0] or final_hw[1] > resized_hw[1]:
                raise ValueError(
                    f"frames of {resized_hw[0]}x{resized_hw[1]} px (height x width) cannot be cropped to "
                    f"{final_hw[0]}x{final_hw[1]}; pass a smaller crop_size or a larger size"
                )
        _refuse_small(final_hw)
        _refuse_large(len(frames), final_hw, settings)
        _refuse_large(1, resized_hw, settings)
        largest = 3 * max(source_hw[0] * source_hw[1], resized_hw[0] * resized_hw[1])
        pixels = []
        for block in frames.split(max(1, RESIZED_VALUES_AT_A_TIME // largest)):
            if time.monotonic() > deadline:
                raise VideoTimeoutError(
                    f"{name}: resizing from {source_hw[0]}x{source_hw[1]} to {resized_hw[0]}x{resized_hw[1]} px did "
                    f"not end within {settings['decode_timeout_s']:g} s; raise `decode_timeout_s`, or ask for fewer "
                    "or smaller frames."
                )
            if settings["device"] is not None:
                block = block.to(settings["device"])
            if settings["do_resize"]:
                size = SizeDict(height=resized_hw[0], width=resized_hw[1])
                block = self.resize(block, size, resample=settings["resample"])
                if block.is_floating_point():
                    block = block.clamp(0, 1)  # bicubic overshoots at sharp edges
            if settings["do_center_crop"]:
                block = self.center_crop(block, settings["crop_size"])
            block = self.rescale_and_normalize(
                block,
                # Floats in memory are in [0, 1] already.
                bool(settings["do_rescale"]) and not block.is_floating_point(),
                settings["rescale_factor"],
                bool(settings["do_normalize"]),
                settings["image_mean"],
                settings["image_std"],
            )
            pixels.append(block.float())
        return pixels[0] if len(pixels) == 1 else torch.cat(pixels)

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
        if longest > 1 and _takes_a_number(settings):
            longest = settings["num_frames"]
        _refuse_large(longest, tuple(clips[0].shape[-2:]), settings, num_clips=len(clips))
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
        """Build from a saved dictionary; `kwargs` replace saved settings.

        What a program stored in the processor beside its settings is stored again.
        """
        known = cls.valid_kwargs.__annotations__
        # Transformers passes loading options through here, so only what looks like a setting of ours is refused.
        alike = {name: value for name, value in kwargs.items() if difflib.get_close_matches(name, known, 1, 0.8)}
        cls._reject_unknown(alike, FOREIGN_KEYS)
        given = {name: kwargs.pop(name) for name in (*known, "trajectory_tokenizer") if name in kwargs}
        saved = dict(video_processor_dict)
        if saved.get("sampling_strategy") == "all":
            saved["num_frames"] = None
        extra = {
            name: saved.pop(name)
            for name in tuple(saved)
            if name not in {*known, "trajectory_tokenizer", *FOREIGN_KEYS} and not name.startswith("_")
        }
        sampling = cls._one_sampling_rule(check_settings(saved), cls._class_sampling())
        sampling = cls._one_sampling_rule(check_settings(given), sampling)
        loaded = super().from_dict(saved | given | sampling, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in extra.items():
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if close:
                logger.warning(f"The saved processor has `{name}`, which is no setting. Did you mean `{close[0]}`?")
            setattr(processor, name, value)
        return loaded

    @classmethod
    def from_json_file(cls, json_file):
        """Build from a file that `to_json_file` wrote."""
        with open(json_file, encoding="utf-8") as file:
            return cls.from_dict(json.load(file))

    def to_dict(self) -> dict:
        """All settings, with the name of the trajectory tokenizer in place of the model."""
        if self._tokenizer is not None and not self.trajectory_tokenizer:
            raise ValueError(
                "The trajectory tokenizer was never saved, so the processor has no name to keep for it. "
                "Save the model, then set `processor.trajectory_tokenizer = <its folder or name>` (or None)."
            )
        return check_settings(self._described())

    def _described(self) -> dict:
        settings = super().to_dict()
        settings.pop("_tokenizer", None)
        if self._tokenizer is not None:
            settings["trajectory_tokenizer"] = self.trajectory_tokenizer
        return settings

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__} {json.dumps(plain(self._described()), indent=2, sort_keys=True, default=repr)}\n"
        )

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
                Its n-th index and time belong to frame n of the outputs.
            source_sizes_hw: (height, width) in pixels per clip; needed without `video_metadata`, else overrides it.
            frame_valid: (B, T) bool, the frames that are wanted, not necessarily the first. Without it, those that
                the metadata knows; without both, all up to the last one with a trajectory (padded frames have id -1).
            min_area_fraction: trajectories with a smaller share of the clip's patches lose their pixels to the next
                best (without logits: to none, -1).

        Returns:
            One map per clip; a frame without a trajectory is -1 everywhere. Without times in the metadata, a frame's
            time is its index.

        Raises:
            ValueError: sizes are missing, counts do not fit the outputs, or a clip has no valid frame.
        """
        if not isinstance(min_area_fraction, numbers.Real) or not 0 <= min_area_fraction < 1:
            raise ValueError(f"min_area_fraction must be in [0, 1), got {min_area_fraction!r}.")
        ids, logits, valid = checked_outputs(outputs)
        sources = None if video_metadata is None else flatten_facts(video_metadata)
        for name, given in (("video_metadata", sources), ("source_sizes_hw", source_sizes_hw)):
            if given is not None and len(given) != len(ids):
                raise ValueError(f"{name} has {len(given)} entries for {len(ids)} clips; pass one per clip.")
        if sources is None and source_sizes_hw is None:
            raise ValueError(
                "Pass video_metadata (from return_metadata=True) or source_sizes_hw: the size is unknown."
            )
        if frame_valid is not None:
            valid = torch.as_tensor(frame_valid, device=ids.device).bool()
        if valid is not None and tuple(valid.shape) != tuple(ids.shape[:2]):
            raise ValueError(f"frame_valid must be (B, T) = {tuple(ids.shape[:2])}, got {tuple(valid.shape)}.")
        maps = []
        for b, clip_ids in enumerate(ids):
            source = {} if sources is None or sources[b] is None else sources[b]
            size_hw = checked_size_hw(source, None if source_sizes_hw is None else source_sizes_hw[b], b)
            rows, indices, times_s = frames_of_clip(clip_ids, source, None if valid is None else valid[b], b)
            clip_ids = clip_ids[rows]
            kept = kept_trajectories(clip_ids, min_area_fraction)
            if logits is None:
                labels = labels_from_ids(clip_ids, kept, size_hw)
            else:
                grid = unflatten_logits(logits[b].detach(), tuple(ids.shape[1:]))
                labels = labels_from_logits(grid[rows], kept, size_hw)
                labels[~(clip_ids >= 0).flatten(1).any(dim=1).cpu().numpy()] = NO_TRAJECTORY
            maps.append(TrajectoryMap(labels, times_s, indices))
        return maps


def _takes_a_number(settings: dict) -> bool:
    """Whether clips get `num_frames` frames, padded where they have fewer."""
    return bool(settings["do_sample_frames"]) and settings["sampling_strategy"] in BY_NUMBER


def _check_usable(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device={device!r} cannot be used here ({reason}). Pass device='cpu', or None.") from error


def _refuse_small(size_hw: tuple[int, int]) -> None:
    if min(size_hw) < BACKBONE_STRIDE_PX:
        raise ValueError(
            f"frames of {size_hw[0]}x{size_hw[1]} px (height x width) are too small for the model; "
            f"expected at least {BACKBONE_STRIDE_PX} on each side. Set do_resize=True or a larger size"
        )


def _refuse_large(
    num_frames: int, size_hw: tuple[int, int], settings: dict, *, num_clips: int = 1, bytes_per_value: int = 4
) -> None:
    """A clip may take `max_bytes`, as decoded and as pixels; a batch `MAX_BYTES_OF_BATCH` times as many."""
    wanted = 3 * bytes_per_value * num_clips * num_frames * size_hw[0] * size_hw[1]
    limit = settings["max_bytes"] * (1 if num_clips == 1 else MAX_BYTES_OF_BATCH)
    if wanted > limit:
        clips = "" if num_clips == 1 else f"{num_clips} clips of "
        frames = f"{num_frames} frame{'s' * (num_frames > 1)}"
        raise ValueError(
            f"{clips}{frames} of {size_hw[0]}x{size_hw[1]} px (height x width) would take {wanted / 2**30:.4g} GiB, "
            f"more than {limit / 2**30:.4g} GiB. Ask for fewer or smaller frames, pass fewer videos at a time, or "
            f"raise `max_bytes`, now {settings['max_bytes']}"
        )


def _target_size(size: SizeDict, source_hw: tuple[int, int]) -> tuple[int, int]:
    if size.height and size.width:
        return size.height, size.width
    if not size.shortest_edge or size.longest_edge:
        raise ValueError(f'size must be {{"height", "width"}} or {{"shortest_edge"}}, got {dict(size)}')
    scale = size.shortest_edge / min(source_hw)
    height, width = (max(1, round(side * scale / BACKBONE_STRIDE_PX)) * BACKBONE_STRIDE_PX for side in source_hw)
    return height, width


__all__ = ["TrajTokVideoMetadata", "TrajTokVideoProcessor", "TrajTokVideoProcessorKwargs"]
