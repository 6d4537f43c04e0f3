"""Train TrajVLM: first to describe videos, then to answer questions about them.

What you will see: a progress bar with the loss, exact match on held-out worlds every few hundred steps, and in the
output folder `metrics.jsonl`, TensorBoard files, resumable checkpoints and at the end `final/` (model, processor) for
`from_pretrained`. Start the same command again to continue a run that was stopped or killed.

    accelerate launch examples/train_trajvlm.py --recipe examples/recipes/trajvlm_captions.yaml --out runs/captions
    accelerate launch examples/train_trajvlm.py --recipe examples/recipes/trajvlm_instructions.yaml --out runs/vlm \
        initial_checkpoint=runs/captions/final train.path=my_chats
    accelerate launch examples/train_trajvlm.py --recipe examples/recipes/trajvlm_tiny.yaml --out runs/trajvlm-tiny

`my_chats` holds `chat.jsonl`, a conversation per line (see trajectory_data/layout_chat.py). Only what the assistant
says is learnt.

Needs: ``pip install -e ".[train]"``; the first two recipes also the weights that they name.
Original: trajvlm/launch_scripts/trajvlm_pretrain.py, trajvlm_sft.py
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from evaluation.question_evaluation import evaluate_questions
from tqdm import tqdm
from training.caption_tokenizer import kept_tokenizer, learn_chat_tokenizer
from training.chat_training import AnswerTraining
from training.chat_views import ChatCollator, ChatViews
from training.clip_cache import ClipCache, open_clips
from training.loop import build_accelerator, freeze, run_script, run_training, save_half_precision, training_clips
from training.recipe import TrajVLMRecipe
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from modeling_trajtok import (
    TrajTokConfig,
    TrajTokSegmenterModel,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)

PLACEHOLDERS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}


def build_tokenizer(recipe: TrajVLMRecipe, clips: ClipCache, folder: Path) -> PreTrainedTokenizerBase:
    """The language model's tokenizer with the placeholders, or one learnt from what is said about the clips."""
    if recipe.text_checkpoint:
        tokenizer = AutoTokenizer.from_pretrained(recipe.text_checkpoint)
        missing = [token for token in PLACEHOLDERS.values() if token not in tokenizer.get_vocab()]
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
        return tokenizer

    def learn() -> PreTrainedTokenizerBase:
        spoken = (clips.metadata(index) for index in tqdm(range(len(clips)), desc="reading clips"))
        return learn_chat_tokenizer(spoken, recipe.vocabulary_size, recipe.max_text_length)

    return kept_tokenizer(folder, learn)


def load_segmenter(name: str) -> TrajTokSegmenterModel:
    """The segmenter of a TrajTok or TrajViT2 model."""
    model = AutoModel.from_pretrained(name, dtype=torch.float32)
    trajtok = model.video_model.trajtok if isinstance(model, TrajViT2Model) else model
    segmenter = TrajTokSegmenterModel(trajtok.config)
    segmenter.segmenter.load_state_dict(trajtok.segmenter.state_dict())
    return segmenter


def build_model(recipe: TrajVLMRecipe, tokenizer: PreTrainedTokenizerBase) -> TrajVLMForConditionalGeneration:
    """A new model; a part that no checkpoint is named for is built from the recipe's settings, with random weights."""
    settings = dict(recipe.model)
    vision, trajtok, text = (settings.pop(f"{name}_config", {}) for name in ("vision", "trajtok", "text"))
    vision = {"model_type": "siglip_vision_model", "image_size": recipe.size_px, "vision_use_head": False} | vision
    text = {
        "model_type": "qwen3",
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "max_position_embeddings": recipe.max_text_length,
    } | text
    if recipe.trajtok_checkpoint:
        segmenter = load_segmenter(recipe.trajtok_checkpoint)
    elif recipe.vision_checkpoint and AutoConfig.from_pretrained(recipe.vision_checkpoint).model_type == "trajvit2":
        segmenter = None
    else:
        segmenter = TrajTokSegmenterModel(TrajTokConfig(**trajtok))
    return TrajVLMForConditionalGeneration.from_components(
        vision=recipe.vision_checkpoint or AutoModel.from_config(AutoConfig.for_model(**vision)),
        trajtok=segmenter,
        text=recipe.text_checkpoint or AutoModelForCausalLM.from_config(AutoConfig.for_model(**text)),
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in PLACEHOLDERS.items()},
        **settings,
    )


def build(
    recipe: TrajVLMRecipe, clips: ClipCache, out: Path
) -> tuple[TrajVLMForConditionalGeneration, TrajVLMProcessor]:
    """Model and processor that the run starts with."""
    if recipe.initial_checkpoint:
        model = TrajVLMForConditionalGeneration.from_pretrained(recipe.initial_checkpoint, dtype=torch.float32)
        return model, AutoProcessor.from_pretrained(recipe.initial_checkpoint)
    tokenizer = build_tokenizer(recipe, clips, out / "tokenizer")
    model = build_model(recipe, tokenizer)
    size = {"height": recipe.size_px, "width": recipe.size_px}
    return model, TrajVLMProcessor.from_model_config(model.config, tokenizer, size=size, num_frames=recipe.num_frames)


def train(recipe: TrajVLMRecipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    accelerator = build_accelerator(recipe, mixed_precision)
    with accelerator.main_process_first():
        clips = training_clips(recipe, cache)
        model, processor = build(recipe, clips, out)
    freeze(model, recipe.frozen)
    held_out = open_clips(recipe.held_out, recipe.size_px)

    evaluate = accelerator.on_main_process(
        partial(
            evaluate_questions,
            processor=processor,
            clips=held_out,
            num_frames=recipe.num_frames,
            extra_types=recipe.extra_types,
        )
    )

    return run_training(
        recipe,
        accelerator,
        out,
        module=AnswerTraining(model),
        model=model,
        clips=clips,
        views=ChatViews(clips, recipe),
        evaluate=evaluate,
        save_final=partial(save_half_precision, processor=processor),
        collate=ChatCollator(processor),
        ema_decay=recipe.ema_decay,
        shown_score="exact_match",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(__doc__, TrajVLMRecipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
