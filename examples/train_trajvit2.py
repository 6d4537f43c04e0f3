"""Train TrajViT2: videos and captions meet in one space, and trajectories in the same space as what is said of them.

What you will see: a progress bar with the losses, scores on held-out clips every few hundred steps, and in the output
folder `metrics.jsonl`, TensorBoard files, resumable checkpoints and at the end `final/` (model, processor, tokenizer)
for `from_pretrained`. Start the same command again to continue a run that was stopped or killed.

    accelerate launch examples/train_trajvit2.py --recipe examples/recipes/trajvit2_tiny.yaml --out runs/trajvit2
    accelerate launch --num_processes 2 --cpu examples/train_trajvit2.py --recipe ... --out ...      # the same losses
    accelerate launch examples/train_trajvit2.py --recipe ... --out ... train.path=my_clips num_steps=500

Needs: ``pip install trajtok[train]``; nothing to download.
Original: trajvitv2/scripts/train.sh
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from evaluation.caption_evaluation import evaluate_worlds
from evaluation.provenance import sha256_of
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm
from training.caption_tokenizer import learn_tokenizer
from training.caption_views import CaptionCollator, CaptionViews
from training.clip_cache import ClipCache, open_clips
from training.contrastive_training import ContrastiveTraining
from training.frozen_features import FrozenFeatures
from training.loop import RunFolder, StepBatches, build_optimizer, freeze, set_learning_rate
from training.recipe import TrajViT2Recipe, load_recipe
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
    if not (folder / "tokenizer_config.json").exists():
        captions = (clips.metadata(index) for index in tqdm(range(len(clips)), desc="reading clips"))
        learn_tokenizer(captions, recipe.vocabulary_size, recipe.max_text_length).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build_model(recipe: TrajViT2Recipe, tokenizer: PreTrainedTokenizerBase) -> TrajViT2Model:
    """The model of the recipe, with the weights that the recipe starts from."""
    if recipe.initial_checkpoint:
        config = TrajViT2Config.from_pretrained(recipe.initial_checkpoint)
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


def save_final(model: TrajViT2Model, processor: TrajViT2Processor, folder: Path) -> None:
    """Save model and processor, weights in half precision."""
    model.to(torch.float16).save_pretrained(folder)
    model.config.dtype = torch.float32  # stored in half precision, loaded and computed in single
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(recipe: TrajViT2Recipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
        step_scheduler_with_optimizer=False,
        # Steps of single frames, or without objects to name, do not reach every weight.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(recipe.seed)
    with accelerator.main_process_first():
        clips = ClipCache(
            open_clips(recipe.train, recipe.size_px),
            cache,
            num_frames=recipe.train.num_frames,
            size_px=recipe.size_px,
            skip_bad=recipe.train.skip_bad,
        )
        tokenizer = build_tokenizer(recipe, clips, out / "tokenizer")
    model = build_model(recipe, tokenizer)
    freeze(model, recipe.frozen)
    features = None
    if SEGMENTER in recipe.frozen:
        segmenter = model.video_model.trajtok
        name = sha256_of(Path(recipe.trajtok_checkpoint or recipe.initial_checkpoint) / "model.safetensors")[:12]
        stride = segmenter.segmenter.patch_encoder.stride
        grid_hw = (recipe.size_px // stride, recipe.size_px // stride)
        features = FrozenFeatures(clips, cache / f"features-{name}", grid_hw, segmenter.config.hidden_size)
        if accelerator.is_main_process:
            features.compute(segmenter)
        accelerator.wait_for_everyone()

    optimizer = build_optimizer(model, recipe)
    module, optimizer = accelerator.prepare(ContrastiveTraining(model, recipe.trajectory_text_weight), optimizer)
    averaged = None
    if recipe.ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
        accelerator.register_for_checkpointing(averaged)
    folder = RunFolder(out, accelerator)
    first_step = folder.resume()

    video_processor = TrajTokVideoProcessor(
        size={"height": recipe.size_px, "width": recipe.size_px}, num_frames=recipe.num_frames
    )
    processor = TrajViT2Processor(video_processor=video_processor, tokenizer=tokenizer)
    held_out = open_clips(recipe.held_out, recipe.size_px)
    collate = CaptionCollator(tokenizer, recipe.max_text_length, recipe.segmentation and features is None)
    loader = DataLoader(
        CaptionViews(clips, recipe, features),
        batch_sampler=StepBatches(recipe, accelerator, first_step),
        collate_fn=collate,
        num_workers=recipe.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=recipe.num_workers > 0,
    )
    batches = iter(loader)
    evaluate = partial(
        evaluate_worlds,
        video_processor=video_processor,
        tokenizer=tokenizer,
        clips=held_out,
        num_frames=recipe.num_frames,
    )
    progress = tqdm(
        range(first_step, recipe.num_steps),
        initial=first_step,
        total=recipe.num_steps,
        desc="training",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    scores = {}
    module.train()
    for step in progress:
        started = time.perf_counter()
        rate = set_learning_rate(optimizer, step, recipe)
        totals = {}
        for _ in range(recipe.accumulation_steps):
            batch = {name: value.to(accelerator.device) for name, value in next(batches).items()}
            with accelerator.accumulate(module):
                losses = module(**batch)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(module.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / recipe.accumulation_steps
        if averaged is not None:
            averaged.update_parameters(accelerator.unwrap_model(module).model)
        means = accelerator.reduce(torch.stack(list(totals.values())), reduction="mean").tolist()
        values = dict(zip(totals, means, strict=True))
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"The loss is {values['loss']} at step {step + 1}. Lower learning_rate or max_grad_norm; the run can "
                f"be continued from step {folder.last_step()} in {out}."
            )
        extras = {"learning_rate": rate, "grad_norm": float(norm), "seconds": time.perf_counter() - started}
        folder.log(step + 1, {**values, **extras})
        shown = {name: scores[name] for name in ("zero_shot_top1",) if scores}
        progress.set_postfix({name: f"{value:.3f}" for name, value in {**values, **shown}.items()})

        finished = step + 1
        if finished % recipe.evaluate_every == 0 or finished == recipe.num_steps:
            judged = accelerator.unwrap_model(module).model if averaged is None else averaged.module
            if accelerator.is_main_process:
                scores = evaluate(judged)
                folder.log(finished, {f"held_out/{name}": value for name, value in scores.items()})
                tqdm.write(f"step {finished}: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
            accelerator.wait_for_everyone()
        if finished % recipe.checkpoint_every == 0 or finished == recipe.num_steps:
            folder.save(finished)
    if accelerator.is_main_process:
        final = accelerator.unwrap_model(module).model if averaged is None else averaged.module
        save_final(final, processor, out / "final")
        tqdm.write(f"saved {out / 'final'}; {clips.num_bad} clips could not be read")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="YAML file, see examples/recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, help="folder for decoded clips (default: OUT/clips)")
    parser.add_argument("--mixed-precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("changes", nargs="*", help="fields of the recipe, such as num_steps=10 or train.seed=3")
    arguments = parser.parse_args(argv)
    try:
        recipe = load_recipe(TrajViT2Recipe, arguments.recipe, arguments.changes)
        train(recipe, arguments.out, arguments.cache or arguments.out / "clips", arguments.mixed_precision)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
