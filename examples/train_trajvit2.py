"""Train TrajViT2: videos and captions meet in one space, and trajectories in the same space as what is said of them.

What you will see: a progress bar with the losses, scores on held-out clips every few hundred steps, and in the output
folder `metrics.jsonl`, TensorBoard files, resumable checkpoints and at the end `final/` (model, processor, tokenizer)
for `from_pretrained`. Start the same command again to continue a run that was stopped or killed.

    accelerate launch examples/train_trajvit2.py --recipe examples/recipes/trajvit2_tiny.yaml --out runs/trajvit2
    ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 examples/train_trajvit2.py --recipe ... --out ...
    accelerate launch --config_file examples/recipes/fsdp.yaml examples/train_trajvit2.py --recipe ... --out ...
    accelerate launch examples/train_trajvit2.py --recipe ... --out ... train.path=my_clips num_steps=500

With several processes the losses are those of one process, except the loss of trajectories and texts: each process
compares its own trajectories with its own texts only.

Needs: ``pip install -e ".[train]"``; nothing to download.
Original: trajvitv2/scripts/train.sh
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from evaluation.caption_evaluation import evaluate_worlds
from tqdm import tqdm
from training.caption_tokenizer import kept_tokenizer, learn_tokenizer
from training.caption_views import CaptionCollator, CaptionViews
from training.clip_cache import ClipCache, open_clips
from training.contrastive_training import ContrastiveTraining
from training.frozen_features import FrozenFeatures
from training.loop import build_accelerator, freeze, run_script, run_training, save_half_precision, training_clips
from training.recipe import TrajViT2Recipe
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modeling_trajtok import (
    TrajTokConfig,
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajViT2Config,
    TrajViT2Model,
    TrajViT2Processor,
)

SEGMENTER = "video_model.trajtok.segmenter."


def build_tokenizer(recipe: TrajViT2Recipe, clips: ClipCache, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe, of the first checkpoint or of a continued run; else learnt from the captions."""
    name = recipe.tokenizer or recipe.initial_checkpoint
    if name:
        return AutoTokenizer.from_pretrained(name)

    def learn() -> PreTrainedTokenizerBase:
        captions = (clips.metadata(index) for index in tqdm(range(len(clips)), desc="reading clips"))
        return learn_tokenizer(captions, recipe.vocabulary_size, recipe.max_text_length)

    return kept_tokenizer(folder, learn)


def changed_config(config: TrajViT2Config, changes: dict) -> TrajViT2Config:
    """A configuration with some fields, or fields of its parts, set to other values."""
    fields = config.to_dict()
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    return TrajViT2Config(**fields)


def build_model(recipe: TrajViT2Recipe, tokenizer: PreTrainedTokenizerBase) -> TrajViT2Model:
    """The model of the recipe, with the weights that the recipe starts from."""
    if recipe.initial_checkpoint:
        config = changed_config(TrajViT2Config.from_pretrained(recipe.initial_checkpoint), recipe.model)
        return TrajViT2Model.from_pretrained(recipe.initial_checkpoint, config=config, dtype=torch.float32)
    settings = dict(recipe.model)
    trajtok = settings.pop("trajtok_config", {})
    if recipe.trajtok_checkpoint:
        trajtok = TrajTokConfig.from_pretrained(recipe.trajtok_checkpoint).to_diff_dict() | trajtok
    text = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} | settings.pop("text_config", {})
    model = TrajViT2Model(TrajViT2Config(trajtok_config=trajtok, text_config=text, **settings))
    if recipe.trajtok_checkpoint:
        pretrained = TrajTokModel.from_pretrained(recipe.trajtok_checkpoint, dtype=torch.float32)
        model.video_model.trajtok.segmenter.load_state_dict(pretrained.segmenter.state_dict())
    return model


def train(recipe: TrajViT2Recipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    # Steps of single frames, or without objects to name, do not reach every weight.
    accelerator = build_accelerator(recipe, mixed_precision, every_step_trains_all=False)
    with accelerator.main_process_first():
        clips = training_clips(recipe, cache)
        tokenizer = build_tokenizer(recipe, clips, out / "tokenizer")
    model = build_model(recipe, tokenizer)
    freeze(model, recipe.frozen)
    features = None
    if SEGMENTER in recipe.frozen:
        features = FrozenFeatures(clips, cache, model.video_model.trajtok)
        if accelerator.is_main_process:
            features.compute()
        accelerator.wait_for_everyone()

    video_processor = TrajTokVideoProcessor(
        size={"height": recipe.size_px, "width": recipe.size_px}, num_frames=recipe.num_frames
    )
    processor = TrajViT2Processor(video_processor=video_processor, tokenizer=tokenizer)
    held_out = open_clips(recipe.held_out, recipe.size_px)

    evaluate = accelerator.on_main_process(
        partial(
            evaluate_worlds,
            video_processor=video_processor,
            tokenizer=tokenizer,
            clips=held_out,
            num_frames=recipe.num_frames,
        )
    )

    return run_training(
        recipe,
        accelerator,
        out,
        module=ContrastiveTraining(model, recipe.trajectory_text_weight),
        model=model,
        clips=clips,
        views=CaptionViews(clips, recipe, features),
        collate=CaptionCollator(tokenizer, recipe.max_text_length, recipe.segmentation and features is None),
        evaluate=evaluate,
        save_final=partial(save_half_precision, processor=processor),
        ema_decay=recipe.ema_decay,
        shown_score="zero_shot_top1",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(__doc__, TrajViT2Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
