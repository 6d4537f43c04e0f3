"""TrajVLMProcessor: a conversation with images and videos in, what `TrajVLMForConditionalGeneration` reads out.

In:   text with one placeholder per image or video (`apply_chat_template` writes it), images, videos
Out:  input_ids with one placeholder per trajectory token, attention_mask; pixel_values, pixel_values_videos and
      frame_valid; or, with a `trajectory_model`, the trajectory tokens themselves (mm_encoder_outputs)
To:   modeling_trajvlm
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    BatchFeature,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SiglipImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from transformers.image_utils import IMAGENET_DEFAULT_STD as IMAGENET_STD
from transformers.image_utils import ImageInput, PILImageResampling, make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessingKwargs
from transformers.video_processing_utils import BaseVideoProcessor

from .chat_messages import close_name, has_source, image_source, list_conversations, pop_video_metadata
from .tokenizer_reference import TokenizerReference
from .video_inputs import flatten_videos
from .video_processing_trajtok import TrajTokVideoProcessor

# The conversation format of Qwen3's instruction models, with places for images and videos.
CHAT_TEMPLATE = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{- content -}}{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}<|vision_start|>IMAGE_TOKEN<|vision_end|>"
    "{%- elif part['type'] == 'video' -%}<|vision_start|>VIDEO_TOKEN<|vision_end|>"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- else -%}{{- raise_exception('Got a part of type ' ~ part['type'] ~ ', expected text, image or video.') -}}"
    "{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- render(message['content']) + '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}"
    "{%- else -%}{{- render(message['content']) + '<|im_end|>\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# Tokenizers without a limit say something like 1e30.
NO_LIMIT = 1e9


class TrajVLMProcessorKwargs(ProcessingKwargs, total=False):
    """Prompts of a batch are padded on the left, where generation wants the padding."""

    _defaults = {  # noqa: RUF012 - read by Transformers
        "text_kwargs": {"padding": True, "padding_side": "left", "return_token_type_ids": False}
    }


class TrajVLMProcessor(ProcessorMixin):
    """An image processor, a `TrajTokVideoProcessor` and the language model's tokenizer.

    The prompt gets exactly as many placeholders as the model makes tokens. That number follows from the number of
    frames as long as the model emits a fixed number of tokens per chunk; where it depends on what is seen
    (``token_selection="valid"``), set `trajectory_model`: the processor then returns the tokens themselves.

    Args:
        image_processor: resizes and normalises images as the video processor does frames.
        video_processor: a `TrajTokVideoProcessor`.
        tokenizer: of the language model, with the two placeholder tokens.
        chat_template: Jinja template; default: Qwen's format.
        image_token: placeholder of an image.
        video_token: placeholder of a video.
        num_trajectories: K of the model's segmenter.
        frames_per_chunk: of the model's configuration.
        token_selection: of the model's configuration.
        max_trajectory_tokens: of the model's configuration.
        use_timestamps: write the time of each chunk into the prompt, before its tokens.
    """

    valid_processor_kwargs = TrajVLMProcessorKwargs
    skip_tensor_conversion = ("video_metadata", "image_features", "video_features")

    def __init__(
        self,
        image_processor=None,
        video_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        image_token: str = "<|image_pad|>",
        video_token: str = "<|video_pad|>",
        num_trajectories: int = 128,
        frames_per_chunk: int | None = 8,
        token_selection: Literal["all", "valid"] = "all",
        max_trajectory_tokens: int | None = None,
        use_timestamps: bool = False,
        **kwargs,
    ):
        self._check_parts(image_processor, video_processor, tokenizer)
        self.image_token, self.video_token = image_token, video_token
        self.num_trajectories = _count("num_trajectories", num_trajectories)
        self.frames_per_chunk = _count("frames_per_chunk", frames_per_chunk, may_be_none=True)
        self.max_trajectory_tokens = _count("max_trajectory_tokens", max_trajectory_tokens, may_be_none=True)
        if token_selection not in ("all", "valid"):
            raise ValueError(f"TrajVLMProcessor got token_selection={token_selection!r}, expected 'all' or 'valid'.")
        if use_timestamps not in (True, False):
            raise ValueError(f"TrajVLMProcessor got use_timestamps={use_timestamps!r}, expected True or False.")
        self.token_selection, self.use_timestamps = token_selection, bool(use_timestamps)
        if image_token == video_token:
            raise ValueError(
                f"TrajVLMProcessor got {image_token!r} as the placeholder of images and of videos, expected two."
            )
        vocabulary = tokenizer.get_vocab()
        for token in (image_token, video_token):
            if token not in vocabulary:
                raise ValueError(
                    f"The tokenizer has no token {token!r}, expected the placeholders of images and videos. Add them: "
                    f"tokenizer.add_tokens([{image_token!r}, {video_token!r}], special_tokens=True)."
                )
        self.image_token_id, self.video_token_id = vocabulary[image_token], vocabulary[video_token]
        if chat_template is None:
            chat_template = CHAT_TEMPLATE.replace("IMAGE_TOKEN", image_token).replace("VIDEO_TOKEN", video_token)
        super().__init__(image_processor, video_processor, tokenizer, chat_template=chat_template, **kwargs)
        self._trajectory_model = None

    @staticmethod
    def _check_parts(image_processor, video_processor, tokenizer) -> None:
        expected = {
            "image_processor": (image_processor, BaseImageProcessor, "an image processor"),
            "video_processor": (video_processor, BaseVideoProcessor, "a TrajTokVideoProcessor"),
            "tokenizer": (tokenizer, PreTrainedTokenizerBase, "the tokenizer of the language model"),
        }
        for name, (part, kind, wanted) in expected.items():
            if not isinstance(part, kind):
                raise ValueError(
                    f"TrajVLMProcessor got {type(part).__name__} as {name}, expected {wanted}. For the parts that fit "
                    "a model use TrajVLMProcessor.from_model_config(model.config, tokenizer), or from_pretrained."
                )

    @classmethod
    def from_model_config(cls, config, tokenizer, **settings) -> "TrajVLMProcessor":
        """The processor that fits a model.

        Args:
            config: its `TrajVLMConfig`.
            tokenizer: of its language model.
            **settings: what else is wanted: ``size`` of frames and, if it is fixed, of images, ``num_frames`` and
                others of `TrajTokVideoProcessor`, ``use_timestamps``, ``chat_template``.
        """
        side = getattr(config.vision_config, "image_size", None)
        if side is None:
            side = config.segmenter_size_px if config.has_trajectory_tower else 384
        fixed = {"height": side, "width": side}
        size = settings.setdefault("size", fixed)
        own = {name: settings.pop(name) for name in ("use_timestamps", "chat_template") if name in settings}
        images = SiglipImageProcessor(
            size=size if "height" in size else fixed,
            resample=PILImageResampling.BICUBIC,
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
        )
        return cls(
            images,
            TrajTokVideoProcessor(**settings),
            tokenizer,
            image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
            video_token=tokenizer.convert_ids_to_tokens(config.video_token_id),
            num_trajectories=config.trajtok_config.num_trajectories,
            frames_per_chunk=config.frames_per_chunk,
            token_selection=config.token_selection,
            max_trajectory_tokens=config.max_trajectory_tokens,
            **own,
        )

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, Any], **kwargs):
        """As in Transformers, which would go on with settings of its own where none were saved."""
        if "num_trajectories" not in processor_dict and "num_trajectories" not in kwargs:
            raise ValueError(
                "TrajVLMProcessor found no processor_config.json with its settings, expected one beside the model. "
                "Pipelines of Transformers do not save it: call pipe.processor.save_pretrained(folder) as well."
            )
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    @property
    def trajectory_model(self) -> PreTrainedModel | None:
        """The TrajVLM that makes the tokens inside the processor; None = calls return pixels. It is not saved."""
        return None if self._trajectory_model is None else self._trajectory_model.load()

    @trajectory_model.setter
    def trajectory_model(self, model: PreTrainedModel | str | os.PathLike | None) -> None:
        self._trajectory_model = None if model is None else TokenizerReference(model)

    def to_dict(self) -> dict[str, Any]:
        """All settings, without the trajectory model."""
        settings = super().to_dict()
        for name in ("_trajectory_model", "image_token_id", "video_token_id"):
            settings.pop(name, None)
        return settings

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers, which notes in the processor where its code lies; that belongs to the folder."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        vars(self).pop("auto_map", None)
        return files

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        **kwargs,
    ) -> BatchFeature:
        """Turn prompts with their images and videos into tensors.

        Args:
            images: pictures, paths or URLs of all prompts, in their order; flat or a list for each prompt.
            text: a prompt or a list of prompts with placeholders; `apply_chat_template` writes them.
            videos: anything that `TrajTokVideoProcessor` takes, in the order of the placeholders.
            **kwargs: settings of tokenizer, image and video processor, and ``return_tensors``.

        Returns:
            ``input_ids``, ``attention_mask``, and ``pixel_values``, ``pixel_values_videos`` with ``frame_valid``, or
            with a `trajectory_model` ``mm_encoder_outputs``.

        Raises:
            ValueError: placeholders and images or videos that do not match, an empty prompt, a prompt that does not
                fit the language model, or files that cannot be read.
        """
        self._refuse_unknown(kwargs)
        images = None if images is None else image_source(images)
        inputs = super().__call__(images=images, text=text, videos=videos, **kwargs)
        features = {name: inputs.pop(f"{name}_features", None) for name in ("image", "video")}
        features = {name: value for name, value in features.items() if value is not None}
        if features:
            inputs["mm_encoder_outputs"] = features
        if text is not None:
            self._check_length(inputs["input_ids"])
        return inputs

    def apply_chat_template(self, conversation, chat_template: str | None = None, **kwargs):
        """As in Transformers, and nothing of a conversation is passed over.

        Args:
            conversation: a list of messages, or a list of such lists. A message is a dict, or an object, with a role
                and a content: a text, or parts of type text, image and video. The form of OpenAI (``video_url``) is
                read as well. A video is what `TrajTokVideoProcessor` takes, or a list of picture files; beside it may
                stand its ``video_metadata``.
            chat_template: a template, or the name of one of the processor's.
            **kwargs: as in Transformers; settings of tokenizer, image and video processor in ``processor_kwargs``.

        Raises:
            ValueError: a part, role or key that the model would not see, a user message without a word, an empty
                conversation; the error says which message and part.
        """
        if kwargs.get("load_audio_from_video"):
            raise ValueError("Got load_audio_from_video=True, expected False: TrajVLM cannot hear.")
        settings = {**kwargs, **(kwargs.get("processor_kwargs") or {})}
        for name in ("images", "videos"):
            if settings.get(name) is not None:
                raise ValueError(
                    f"apply_chat_template got {name}=, expected them in the conversation: "
                    f'{{"type": "{name[:-1]}", "{name[:-1]}": ...}} in the content of a message.'
                )
        template = str(self.chat_template if chat_template is None else f"{self.chat_template} {chat_template}")
        conversations, is_batched = list_conversations(conversation, template)
        self._check_questions(conversations, tokenize=bool(kwargs.get("tokenize")))
        facts = pop_video_metadata(conversations)
        if facts is not None:
            if settings.get("video_metadata") is not None:
                raise ValueError("Got video_metadata beside videos and as an argument, expected it in one place.")
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "video_metadata": facts}
        return super().apply_chat_template(
            conversations if is_batched else conversations[0], chat_template=chat_template, **kwargs
        )

    @staticmethod
    def _check_questions(conversations: list[list[dict]], *, tokenize: bool) -> None:
        """Users say something, and where tensors are wanted each place of an image or video has one."""
        for number, messages in enumerate(conversations, 1):
            for message in messages:
                content = message["content"]
                parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
                if message["role"] == "user" and not any(part.get("text", "").strip() for part in parts):
                    raise ValueError(
                        f"Got an empty question in conversation {number}, expected a user message with some text. Add "
                        '{"type": "text", "text": "Describe the video."} to its content.'
                    )
                for part in parts:
                    if tokenize and not has_source(part):
                        raise ValueError(
                            f"Conversation {number}: got a part of type {part['type']} that names none, expected "
                            f'{{"type": "{part["type"]}", "{part["type"]}": path, URL or data}}.'
                        )

    def _refuse_unknown(self, kwargs: dict) -> None:
        """Transformers warns of keywords that nobody reads, and goes on without what they held."""
        if kwargs.get("audio") is not None:
            raise ValueError("TrajVLMProcessor got audio, expected text, images and videos: TrajVLM cannot hear.")
        known = {"images", "text", "videos", "audio", "common_kwargs", *self.valid_processor_kwargs.__annotations__}
        for name in ("text_kwargs", "images_kwargs", "videos_kwargs"):
            known |= set(self.valid_processor_kwargs.__annotations__[name].__annotations__)
        for part in (self.image_processor, self.video_processor):
            known |= set(part.valid_kwargs.__annotations__)
        # Pipelines hand over generation settings that they do not know; of those Transformers warns, which is enough.
        known |= set(vars(GenerationConfig()))
        for name in kwargs:
            if name not in known:
                raise ValueError(
                    f"TrajVLMProcessor got {name}=, which nothing here reads." + close_name(name, sorted(known))
                )

    def validate_inputs(self, images=None, text=None, videos=None, **kwargs) -> None:
        """Every placeholder has its image or video, and the other way round."""
        if text is None:
            if images is None and videos is None:
                raise ValueError("TrajVLMProcessor got no input, expected text, images or videos.")
            return
        if any(not isinstance(sample, str) for sample in text):
            raise ValueError("TrajVLMProcessor got text that is no string, expected prompts.")
        counts = {
            "image": (self.image_token, 0 if images is None else len(make_flat_list_of_images(images))),
            "video": (self.video_token, 0 if videos is None else len(flatten_videos(videos))),
        }
        for name, (token, given) in counts.items():
            wanted = [sample.count(token) for sample in text]
            if sum(wanted) != given:
                raise ValueError(
                    f"TrajVLMProcessor got {given} {name}s for {sum(wanted)} placeholders {token} (per prompt: "
                    f"{wanted}): the number of {token} tokens in the prompts should be the same as the number of "
                    f"{name}s. Write prompts with apply_chat_template and "
                    f'{{"type": "{name}"}} entries, or put {token} where a {name} belongs.'
                )
        for sample in text:
            if not sample.replace(self.image_token, "").replace(self.video_token, "").strip():
                raise ValueError("TrajVLMProcessor got a prompt without a word, expected a question. Add text to it.")

    # --- how many tokens ---------------------------------------------------------------------------------------------

    def _process_images(self, images, **kwargs) -> tuple[dict, list[str]]:
        processed = self.image_processor(images, **kwargs)
        counts = self._fixed_counts([1] * len(make_flat_list_of_images(images)))
        if self._trajectory_model is not None:
            model, pixels = self.trajectory_model, torch.as_tensor(processed["pixel_values"])
            with torch.no_grad():
                features = model.get_image_features(pixels.to(model.device, model.dtype), return_dict=True)
            processed = {"image_features": features}
            counts = self._found_counts(features, [1] * len(counts))
        return processed, [self.image_token * sum(self._known(count)) for count in counts]

    def _process_videos(self, videos, **kwargs) -> tuple[dict, list[str]]:
        videos = flatten_videos(videos)
        facts = kwargs.get("video_metadata")
        if isinstance(facts, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in facts):
            # Nested as the videos of several prompts may be.
            kwargs["video_metadata"] = [
                fact for one in facts for fact in (one if isinstance(one, (list, tuple)) else [one])
            ]
        processed = self._read_videos(videos, kwargs)
        frame_valid, metadata = torch.as_tensor(processed["frame_valid"]), processed["video_metadata"]
        length = self._frames_per_chunk(frame_valid.shape[1])
        counts = self._fixed_counts([-(-int(frames) // length) for frames in frame_valid.sum(dim=1)])
        if self._trajectory_model is not None:
            model, pixels = self.trajectory_model, torch.as_tensor(processed["pixel_values_videos"])
            with torch.no_grad():
                features = model.get_video_features(
                    pixels.to(model.device, model.dtype), frame_valid.to(model.device), return_dict=True
                )
            processed = {"video_features": features, "video_metadata": metadata}
            self._check_chunks_of(model)
            counts = self._found_counts(features, [-(-int(frames) // length) for frames in frame_valid.sum(dim=1)])
        replacements = [
            self._video_placeholders(count, one, length) for count, one in zip(counts, metadata, strict=True)
        ]
        return processed, replacements

    def _read_videos(self, videos: list, kwargs: dict) -> BatchFeature:
        """The video processor's tensors. A video that it may skip is missed by its prompt, so here it is an error."""
        try:
            processed = self.video_processor(videos, **{**kwargs, "return_metadata": True})
            failures = processed.pop("failures", None)
        except ValueError as error:
            if not hasattr(error, "failures"):
                raise
            failures = error.failures
        if failures:
            listed = "; ".join(f"video {failure['index'] + 1}: {failure['error']}" for failure in failures)
            raise ValueError(
                f"TrajVLMProcessor cannot leave out {len(failures)} of {len(videos)} videos (skip_bad_videos): their "
                f"prompts would be answered without them. Leave out these prompts as well. {listed}"
            )
        processed.pop("kept_videos", None)
        return processed

    def _check_chunks_of(self, model: PreTrainedModel) -> None:
        if model.config.frames_per_chunk != self.frames_per_chunk:
            raise ValueError(
                f"TrajVLMProcessor has frames_per_chunk={self.frames_per_chunk}, its trajectory_model "
                f"{model.config.frames_per_chunk}, expected the same. Use "
                "TrajVLMProcessor.from_model_config(model.config, tokenizer)."
            )

    def _frames_per_chunk(self, num_frames: int) -> int:
        return min(self.frames_per_chunk or num_frames, num_frames)

    def _fixed_counts(self, num_chunks: Sequence[int]) -> list[list[int] | None]:
        """Tokens per chunk of each image or video, where they do not depend on what is seen; else None."""
        if self.token_selection == "valid":
            return [None] * len(num_chunks)
        counts = [[self.num_trajectories] * chunks for chunks in num_chunks]
        budget = self.max_trajectory_tokens
        return [count if budget is None or sum(count) <= budget else [budget] for count in counts]

    @staticmethod
    def _found_counts(features, num_chunks: Sequence[int]) -> list[list[int]]:
        """Tokens per chunk of each image or video, also of chunks in which nothing was found."""
        return [
            chunks.bincount(minlength=length).tolist()
            for chunks, length in zip(features.token_chunks, num_chunks, strict=True)
        ]

    def _known(self, counts: list[int] | None) -> list[int]:
        if counts is None:
            raise ValueError(
                "TrajVLMProcessor has token_selection='valid' and only sizes or pixels to count tokens from: how many "
                "trajectories there are is known only once a model has seen them. Set processor.trajectory_model = "
                "model and process the pixels, or token_selection='all' in the model's configuration and here."
            )
        return counts

    def _video_placeholders(self, counts: list[int] | None, metadata, length: int) -> str:
        counts = self._known(counts)
        if not self.use_timestamps:
            return self.video_token * sum(counts)
        times_s = metadata["frame_times_s"]
        if times_s is None:
            raise ValueError(
                "TrajVLMProcessor has use_timestamps=True, but the frames of a video in memory have no times. Pass "
                'video_metadata=[{"fps": ...}], or use_timestamps=False.'
            )
        if len(counts) * length < len(times_s):
            raise ValueError(
                f"TrajVLMProcessor has use_timestamps=True and max_trajectory_tokens={self.max_trajectory_tokens}: "
                "which chunks keep their tokens is known only to the model. Set processor.trajectory_model = model."
            )
        chunks = [times_s[first : first + length] for first in range(0, len(times_s), length)]
        return "".join(
            f"<{times[0]:.1f}-{times[-1]:.1f} seconds>" + self.video_token * count
            for times, count in zip(chunks, counts, strict=True)
        )

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """Tokens of images (height, width) and videos (frames, height, width), for servers that plan ahead."""
        data = {}
        if image_sizes is not None:
            data["num_image_tokens"] = [sum(self._known(one)) for one in self._fixed_counts([1] * len(image_sizes))]
            data["num_image_patches"] = [1] * len(image_sizes)
        if video_sizes is not None:
            chunks = [-(-frames // self._frames_per_chunk(frames)) for frames, _, _ in video_sizes]
            data["num_video_tokens"] = [sum(self._known(one)) for one in self._fixed_counts(chunks)]
        return MultiModalData(**data)

    def _check_length(self, input_ids) -> None:
        limit = self.tokenizer.model_max_length
        lengths = [len(row) for row in input_ids]
        if limit > NO_LIMIT or max(lengths) <= limit:
            return
        longest = list(input_ids[lengths.index(max(lengths))])
        visual = sum(longest.count(token) for token in (self.image_token_id, self.video_token_id))
        raise ValueError(
            f"TrajVLMProcessor got a prompt of {max(lengths)} tokens ({visual} of them of images and videos), "
            f"expected at most {limit} (tokenizer.model_max_length). Pass fewer frames (num_frames), or set "
            "max_trajectory_tokens, token_selection='valid' or a larger frames_per_chunk in the model's configuration "
            "and in the processor."
        )


def _count(name: str, value: Any, *, may_be_none: bool = False) -> int | None:
    """A whole number of at least 1, of Python or NumPy, as one of Python, which can be saved."""
    if value is None and may_be_none:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
        wanted = "a whole number of at least 1" + (" or None" if may_be_none else "")
        raise ValueError(f"TrajVLMProcessor got {name}={value!r}, expected {wanted}.")
    return int(value)


__all__ = ["TrajVLMProcessor"]
