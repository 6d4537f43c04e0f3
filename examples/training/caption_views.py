"""Training views of clips with captions, the same for the same number.

In:   ClipCache with metadata (captions; of worlds also the objects), optionally the features of a frozen segmenter
Out:  batches for `ContrastiveTraining.forward`
To:   train_trajvit2.py
"""

from collections.abc import Sequence

import numpy as np
import torch
from evaluation.object_matching import world_objects
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from worlds import (
    altered_caption,
    altered_names,
    altered_summaries,
    motions_caption,
    object_caption,
    summary_caption,
)

from .clip_cache import ClipCache
from .frozen_features import FrozenFeatures
from .pixels import normalise, pixels_of
from .recipe import TrajViT2Recipe
from .segmentation_views import consecutive

NOBODY = -1


class CaptionViews(Dataset):
    """View j: a clip in an order shuffled anew each epoch, a caption, false captions, and objects with their texts.

    Frames are neither mirrored nor recoloured, since captions tell directions and colours. The steps that show single
    frames are drawn from (seed, step), everything else from (seed, j).
    """

    def __init__(self, clips: ClipCache, recipe: TrajViT2Recipe, features: FrozenFeatures | None = None):
        self.clips, self.recipe, self.features = clips, recipe, features

    def __len__(self) -> int:
        return self.recipe.num_steps * self.recipe.batch_size

    def __getitem__(self, view: int) -> dict:
        recipe, (epoch, position) = self.recipe, divmod(view, len(self.clips))
        clip = np.random.default_rng([recipe.seed, 0, epoch]).permutation(len(self.clips))[position]
        clip = self.clips.position_of(clip)
        rng = np.random.default_rng([recipe.seed, 1, view])
        is_image = np.random.default_rng([recipe.seed, 2, view // recipe.batch_size]).random() < recipe.image_share
        frames, ids = self.clips[clip]
        chosen = np.linspace(0, len(frames) - 1, recipe.num_frames).round().astype(int)
        if is_image:
            chosen = rng.integers(len(frames), size=1)

        example = self._texts(self.clips.metadata(clip), ids[chosen], is_image, rng)
        example |= {"ids": torch.from_numpy(ids[chosen].astype(np.int64)), "clip": clip}
        if self.features is not None:
            example |= self.features.read(clip, chosen)
        else:
            example["pixel_values_videos"] = normalise(pixels_of(frames[chosen]))
        return example

    def _texts(self, metadata: dict, ids: np.ndarray, is_image: bool, rng: np.random.Generator) -> dict:
        """A true caption, false ones, (id, text) of objects that are seen, and false texts of these."""
        recipe, objects, seen = self.recipe, world_objects(metadata), np.unique(ids)
        if not objects:
            captions = metadata.get("captions") or [metadata["caption"]]
            return {"caption": captions[rng.integers(len(captions))], "altered": [], "named": [], "misnamed": []}
        kind, count = rng.random(), recipe.altered_captions
        if is_image:
            caption, altered = metadata["captions"][2], []
        elif kind < recipe.summary_share:
            caption, altered = summary_caption(objects), altered_summaries(rng, objects, count)
        else:
            lists_names = kind > 1 - 0.2 * (1 - recipe.summary_share)
            caption = metadata["captions"][2] if lists_names else motions_caption(objects)
            altered = [altered_caption(rng, objects) for _ in range(count)]
        visible = [one for one in objects if one.id in seen]
        order = rng.permutation(len(visible))[: recipe.named_trajectories]
        named, misnamed = [], []
        for one in (visible[position] for position in order):
            with_motion = not is_image and rng.random() < 0.7
            named.append((one.id, object_caption(one) if with_motion else one.name))
            misnamed += altered_names(rng, one, recipe.altered_names, with_motion)
        return {"caption": caption, "altered": altered, "named": named, "misnamed": misnamed}


class CaptionCollator:
    """Stack views and turn their texts into tokens.

    Args:
        tokenizer: of the text tower.
        max_length: tokens per text at most; longer ones are cut.
        segmentation: also give the masks to the segmentation loss.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, segmentation: bool):
        self.tokenizer, self.max_length, self.segmentation = tokenizer, max_length, segmentation

    def __call__(self, views: Sequence[dict]) -> dict[str, Tensor]:
        """Views to one batch.

        ``named_*`` are texts of objects, first the true ones, each with its clip and object, then false ones; equal
        texts have the same ``named_text``.
        """
        batch = {
            name: torch.stack([view[name] for view in views])
            for name in ("pixel_values_videos", "patch_features", "trajectory_ids")
            if name in views[0]
        }
        texts = [view["caption"] for view in views] + [text for view in views for text in view["altered"]]
        batch |= self._tokens(texts, "")
        batch["idx"] = torch.tensor([view["clip"] for view in views])
        batch["object_ids"] = torch.stack([view["ids"] for view in views])
        if self.segmentation:
            batch["trajectory_labels"] = torch.stack([consecutive(view["ids"]) for view in views])
        named = [(row, *pair) for row, view in enumerate(views) for pair in view["named"]]
        if named:
            rows, ids, texts = zip(*named, strict=True)
            texts = [*texts, *(text for view in views for text in view["misnamed"])]
            batch |= self._tokens(texts, "named_")
            numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            batch["named_clip"], batch["named_id"] = torch.tensor(rows), torch.tensor(ids)
            batch["named_text"] = torch.tensor([numbers[text] for text in texts])
        return batch

    def _tokens(self, texts: Sequence[str], prefix: str) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {f"{prefix}{name}": tokens[name] for name in ("input_ids", "attention_mask")}
