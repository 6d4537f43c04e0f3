"""The "zero-shot-video-classification" pipeline: which of these texts describes the video?

In:   videos in any form that the processor takes; candidate labels
Out:  for each video its labels with their scores, highest first; for a bad video that was skipped, what is wrong
From: modeling_trajvit2 (any model with ``get_video_features`` and ``get_text_features``)     To: the user
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import Pipeline

CACHED_LABEL_SETS = 16


def is_one_video(videos: Sequence) -> bool:
    """Whether a list is one video, given as pictures, rather than several videos."""
    return len(videos) > 0 and all(_is_picture(entry) for entry in videos)


def _is_picture(value: Any) -> bool:
    # Of PIL's images an animated one is a video by itself.
    return (hasattr(value, "convert") and getattr(value, "n_frames", 1) == 1) or getattr(value, "ndim", 0) in (2, 3)


def is_collection(videos: Any) -> bool:
    """Whether this holds several videos: a list, an array of 5 axes, a generator, a data set or a column of one."""
    if isinstance(videos, (list, tuple)):
        return not is_one_video(videos)
    if hasattr(videos, "ndim"):
        return videos.ndim in (1, 5)
    if isinstance(videos, (str, bytes, bytearray, memoryview, Mapping)) or hasattr(videos, "read"):
        return False
    # Decoders of a video are iterable as well; what they iterate over is frames.
    return isinstance(videos, Dataset) or (hasattr(type(videos), "__iter__") and not hasattr(videos, "metadata"))


class IndexedVideos(Dataset):
    """Anything with a length and an index, in the form in which Transformers' pipelines read it one by one."""

    def __init__(self, videos: Sequence):
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Any:
        return self.videos[index]


class ZeroShotVideoClassificationPipeline(Pipeline):
    """Classify videos by texts that are given with the call.

    ```python
    classifier = pipeline("zero-shot-video-classification", model="org/trajvit2")
    classifier("clip.mp4", candidate_labels=["a dog runs", "a car parks"])
    # [{"score": 0.93, "label": "a dog runs"}, {"score": 0.07, "label": "a car parks"}]
    ```

    Texts are encoded once for all videos and calls. A list of videos shows a progress bar and, with ``batch_size``, is
    read and run in batches, whose shorter clips are padded and masked. With
    ``videos_kwargs={"skip_bad_videos": True}`` a video that cannot be read does not end the call: the result in its
    place says what is wrong with it.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.processor, "video_processor", None) is None or self.processor.tokenizer is None:
            raise ValueError(
                "The zero-shot-video-classification pipeline got no processor with a video processor and a tokenizer. "
                "Save one beside the model (`processor.save_pretrained(folder)`), or pass processor=..."
            )
        if not (hasattr(self.model, "get_video_features") and hasattr(self.model, "get_text_features")):
            raise ValueError(
                f"The zero-shot-video-classification pipeline got a {type(self.model).__name__}, expected a model "
                "that embeds videos and texts, such as TrajViT2Model."
            )
        self._label_embeds = {}

    def __call__(self, videos: Any, candidate_labels: Sequence[str] | None = None, **kwargs) -> list:
        """Score every label for every video.

        Args:
            videos: a path, URL, bytes, array, tensor, list of pictures; or a list, generator, column or data set of
                those.
            candidate_labels: texts, at least one.
            **kwargs: ``hypothesis_template``: what the labels are put into, in place of ``{}``, or a list of templates
                whose embeddings are averaged (default: ``config.hypothesis_template``; "{}" for whole captions).
                ``tokenizer_kwargs``, ``videos_kwargs``: for the tokenizer and the video processor (``num_frames``,
                ``fps``, ...). ``return_trajectories``: also what each trajectory has to do with each label.
                ``batch_size``: videos at a time. ``progress``: show a bar (default: for lists).

        Returns:
            For each video ``[{"score", "label"}, ...]``, highest score first; scores add up to 1. With
            ``return_trajectories`` a dict: "labels" as above, "trajectories" (`TrajectoryMap`), "trajectory_scores"
            (labels in that order, K): cosine of each trajectory with each label. A video that was skipped has
            ``{"index", "video", "error"}``: its place in the input, its name and the reason. There are as many results
            as videos, in their order: a list, or for generators and data sets an iterator. One video, not in a list:
            its result.

        Raises:
            ValueError: for labels, templates or videos that are missing or of the wrong kind.
        """
        if candidate_labels is not None:
            kwargs["candidate_labels"] = candidate_labels
        if not is_collection(videos):
            if isinstance(videos, (list, tuple)):
                return super().__call__([list(videos)], **{"progress": False, **kwargs})[0]
            return super().__call__(videos, **kwargs)
        if isinstance(videos, (list, tuple)) or hasattr(videos, "ndim"):
            videos = list(videos)
            if not videos:
                raise ValueError("Got an empty list of videos, expected at least one.")
            return super().__call__(videos, **kwargs)
        if isinstance(videos, Dataset):
            return super().__call__(videos, **kwargs)
        if hasattr(videos, "__len__") and hasattr(videos, "__getitem__"):
            return list(super().__call__(IndexedVideos(videos), **kwargs))
        return super().__call__((video for video in videos), **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Save model, processor and code, so that the folder opens again, on the Hub also without this package.

        Args:
            save_directory: where to.
            **kwargs: as in Transformers.
        """
        config = self.model.config
        before = dict(vars(config))
        super().save_pretrained(save_directory, **kwargs)
        if "custom_pipelines" not in before:
            # The folder needs it; a model in memory that has it would be taken for code of the Hub.
            vars(config).pop("custom_pipelines", None)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self,
        candidate_labels=None,
        hypothesis_template=None,
        tokenizer_kwargs=None,
        videos_kwargs=None,
        return_trajectories=None,
        progress=None,
    ):
        given = {
            "preprocess": {"videos_kwargs": videos_kwargs, "progress": progress},
            "forward": {
                "candidate_labels": candidate_labels,
                "hypothesis_template": hypothesis_template,
                "tokenizer_kwargs": tokenizer_kwargs,
                "return_trajectories": return_trajectories,
            },
        }
        kept = [{name: value for name, value in part.items() if value is not None} for part in given.values()]
        return (*kept, {})

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        """One video, without a progress bar."""
        return next(self._run([inputs], 1, {**preprocess_params, "progress": False}, forward_params))

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """Results of several videos, one after the other."""
        return self._run(inputs, batch_size, preprocess_params, forward_params)

    def _run(self, videos: Iterable, batch_size: int, preprocess_params: dict, forward_params: dict) -> Iterator:
        self._check_labels(forward_params.get("candidate_labels"))
        total = len(videos) if hasattr(videos, "__len__") else None
        shown = preprocess_params.pop("progress", total is None or total > 1)
        remaining = iter(videos if total is None else (videos[index] for index in range(total)))
        position = 0
        with tqdm(total=total, desc="videos", unit="video", disable=not shown) as progress:
            while batch := list(islice(remaining, batch_size)):
                try:
                    inputs = self.preprocess(batch, **preprocess_params)
                except ValueError as error:
                    if position or total != len(batch):
                        # The processor counts within the batch.
                        error.args = (f"In a batch that starts at video {position + 1} of the input: {error}",)
                    raise
                failures = {failure["index"]: failure for failure in inputs.pop("failures", ())}
                inputs.pop("kept_videos", None)
                results = iter(self.postprocess(self.forward(inputs, **forward_params)) if inputs else ())
                for row in range(len(batch)):
                    yield {**failures[row], "index": position + row} if row in failures else next(results)
                position += len(batch)
                progress.update(len(batch))

    def preprocess(self, videos: list, videos_kwargs: dict | None = None, progress: bool = False) -> dict:
        """Videos to tensors, padded to one length; nothing but ``failures`` if all were bad and skipped."""
        settings = {"num_frames": self.model.config.num_frames} | (videos_kwargs or {})
        if settings.get("fps") is not None or settings.get("sampling_strategy") in ("all", "fps"):
            settings = videos_kwargs
        try:
            return dict(self.processor.video_processor(videos, return_tensors="pt", return_metadata=True, **settings))
        except ValueError as error:
            if not hasattr(error, "failures"):
                raise
            return {"failures": error.failures}

    def _forward(
        self,
        model_inputs: dict,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str | Sequence[str] | None = None,
        tokenizer_kwargs: dict | None = None,
        return_trajectories: bool = False,
    ) -> dict:
        metadata = model_inputs.pop("video_metadata")
        labels = self._check_labels(candidate_labels)
        texts = self._embed_labels(labels, hypothesis_template, tokenizer_kwargs or {})
        extra = {"output_trajectory_features": True} if return_trajectories else {}
        videos = self.model.get_video_features(**model_inputs, **extra)
        config = self.model.config
        temperature = self.model.temperature.clamp(config.min_temperature, config.max_temperature)
        outputs = {"labels": labels, "probs": (videos.pooler_output @ texts.t() / temperature).softmax(dim=-1)}
        if return_trajectories:
            tokenized = videos.trajtok_output
            outputs["trajectories"] = self.processor.video_processor.post_process_trajectories(tokenized, metadata)
            per_trajectory = videos.trajectory_features.unflatten(1, (config.trajtok_config.num_trajectories, -1))
            outputs["trajectory_scores"] = torch.einsum("bkle,ne->bnk", per_trajectory[:, :, :1], texts)
        return outputs

    def postprocess(self, model_outputs: dict, **kwargs) -> list:
        """Probabilities to sorted lists of labels, one result per video."""
        results = []
        for row, probs in enumerate(model_outputs["probs"].float().tolist()):
            order = sorted(range(len(probs)), key=lambda index: -probs[index])
            result = [{"score": probs[index], "label": model_outputs["labels"][index]} for index in order]
            if "trajectories" in model_outputs:
                scores = model_outputs["trajectory_scores"][row][order]
                result = {
                    "labels": result,
                    "trajectories": model_outputs["trajectories"][row],
                    "trajectory_scores": scores,
                }
            results.append(result)
        return results

    def _embed_labels(
        self, labels: list[str], hypothesis_template: str | Sequence[str] | None, tokenizer_kwargs: dict
    ) -> Tensor:
        """The labels (n, E), averaged over templates, of length 1; computed once for each set of labels."""
        templates = self._check_templates(hypothesis_template or self.model.config.hypothesis_template)
        key = (tuple(labels), tuple(templates), repr(sorted(tokenizer_kwargs.items())))
        if key not in self._label_embeds:
            sums = 0.0
            for template in templates:
                texts = [template.format(label) for label in labels]
                tokens = self.processor(text=texts, return_tensors="pt", **tokenizer_kwargs)
                sums = (
                    sums
                    + self.model.get_text_features(
                        tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
                    ).pooler_output
                )
            if len(self._label_embeds) >= CACHED_LABEL_SETS:
                self._label_embeds.pop(next(iter(self._label_embeds)))
            self._label_embeds[key] = F.normalize(sums, dim=-1)
        return self._label_embeds[key]

    @staticmethod
    def _check_labels(labels: Any) -> list[str]:
        if labels is None or isinstance(labels, str) or not isinstance(labels, Iterable):
            raise ValueError(
                f"candidate_labels is {labels!r}, expected a list of texts, such as ['a dog runs', 'a car parks']."
            )
        labels = list(labels)
        if not labels:
            raise ValueError("candidate_labels is empty, expected at least one text.")
        for label in labels:
            if not isinstance(label, str) or not label.strip():
                raise ValueError(f"candidate_labels holds {label!r}, expected texts that are not empty.")
        return labels

    @staticmethod
    def _check_templates(templates: str | Sequence[str]) -> list[str]:
        templates = [templates] if isinstance(templates, str) else list(templates)
        for template in templates:
            if not isinstance(template, str) or "{}" not in template:
                raise ValueError(
                    f"hypothesis_template is {template!r}, expected a text with {{}} where the label goes, such as "
                    "'a video of {}.', or '{}' for labels that are whole captions."
                )
        return templates


__all__ = ["ZeroShotVideoClassificationPipeline"]
