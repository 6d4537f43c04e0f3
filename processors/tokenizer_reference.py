"""Tokenizer reference: the model a video processor borrows to emit trajectory tokens.

In:   a loaded TrajTokModel, or the name or path it is loaded from when first used
Out:  trajectory_embeds, token_valid, trajectory_ids for a batch of pixels
From: the user     To: video_processing_trajtok, whose saved form holds the name only, never weights
"""

import os

import torch
from transformers import AutoModel, PreTrainedModel


class TokenizerReference:
    """Holds a tokenizer model or where to find it; copies of a processor share one model."""

    def __init__(self, tokenizer: "PreTrainedModel | str | os.PathLike"):
        self._model = tokenizer if isinstance(tokenizer, PreTrainedModel) else None
        if self._model is None and not isinstance(tokenizer, (str, os.PathLike)):
            raise ValueError(
                "trajectory_tokenizer must be a loaded model or the name or path of one, "
                f"got {type(tokenizer).__name__}."
            )
        if self._model is None and not os.fspath(tokenizer):
            raise ValueError(
                "trajectory_tokenizer is an empty name; pass a loaded model, its folder or name, or None."
            )
        self.name_or_path = tokenizer.name_or_path if self._model is not None else os.fspath(tokenizer)

    def __deepcopy__(self, memo: dict) -> "TokenizerReference":
        return self

    def load(self) -> PreTrainedModel:
        """The model, loaded on first use.

        Raises:
            OSError: there is none of that name.
        """
        if self._model is None:
            try:
                self._model = AutoModel.from_pretrained(self.name_or_path).eval()
            except OSError as error:
                raise OSError(
                    f"The model {self.name_or_path!r} of the processor cannot be loaded; it must be a folder with a "
                    f"saved model, or the name of one on the Hub. {error}"
                ) from error
        return self._model

    @torch.no_grad()
    def tokenize(self, pixel_values_videos: torch.Tensor, frame_valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model where and in the precision it is.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px).
            frame_valid: (B, T) bool.

        Returns:
            trajectory_embeds (B, K·L, D), token_valid (B, K·L) bool, trajectory_ids (B, T, H, W).

        Raises:
            ValueError: the model is no TrajTokModel.
        """
        model = self.load()
        outputs = {}
        if model.main_input_name == "pixel_values_videos":
            outputs = model(
                pixel_values_videos=pixel_values_videos.to(model.device, model.dtype),
                frame_valid=frame_valid.to(model.device),
            )
        names = ("trajectory_embeds", "token_valid", "trajectory_ids")
        if any(outputs.get(name) is None for name in names):
            raise ValueError(
                f"trajectory_tokenizer is a {type(model).__name__}, which makes no trajectory tokens; pass a "
                "TrajTokModel, or its folder or name."
            )
        return {name: outputs[name] for name in names}
