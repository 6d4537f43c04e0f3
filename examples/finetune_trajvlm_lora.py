"""Teach a trained TrajVLM something new with LoRA: the language model gets adapters, the connector is trained in full.

What you will see: the share of right answers before, a progress bar, then a table of every type of question before and
after. The output folder holds `final/`, an adapter of a few MB for `PeftModel.from_pretrained`, and with merge=true
`merged/`, a whole model that needs no PEFT.

    python examples/finetune_trajvlm_lora.py --recipe examples/recipes/trajvlm_lora.yaml --out runs/lora
    accelerate launch examples/finetune_trajvlm_lora.py --recipe examples/recipes/trajvlm_lora.yaml --out runs/mine \
        initial_checkpoint=org/trajvlm train.path=my_chats train.num_clips=0 merge=true

`my_chats` is a folder with videos and a `chat.jsonl`; what is asked of held-out worlds is judged all the same.

The vision tower and the segmenter stay as they are: the adapters are found by a regular expression
(`modeling_trajtok.modeling_trajvlm.LORA_TARGET_MODULES`), since a list of names would match them as well. On a GPU
with too little memory load the base in 4 bits (QLoRA): `quantization_config=BitsAndBytesConfig(load_in_4bit=True)` in
`from_pretrained`, then call `peft.prepare_model_for_kbit_training`; bitsandbytes needs a GPU, so it was not run here.

Needs: ``pip install -e ".[train]"``, a trained TrajVLM.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from evaluation.provenance import checkpoint_record
from evaluation.question_evaluation import evaluate_questions
from peft import LoraConfig, PeftModel, get_peft_model
from training.chat_training import AnswerTraining
from training.chat_views import ChatCollator, ChatViews
from training.clip_cache import open_clips
from training.loop import build_accelerator, run_script, run_training, training_clips
from training.recipe import TrajVLMRecipe
from transformers import AutoProcessor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor
from modeling_trajtok.modeling_trajvlm import LORA_MODULES_TO_SAVE, LORA_TARGET_MODULES

BASE_RECORD = "trajvlm_base.json"


@dataclass
class TrajVLMLoraRecipe(TrajVLMRecipe):
    """A `TrajVLMRecipe` whose ``initial_checkpoint`` gets adapters.

    Attributes:
        lora_rank: of the adapters.
        lora_alpha: their scale, as a multiple of the rank.
        lora_dropout: in front of them, in training.
        gradient_checkpointing: compute activations again instead of keeping them.
        merge: also save the model with the adapters merged into its weights.
    """

    lora_rank: int = 16
    lora_alpha: float = 2.0
    lora_dropout: float = 0.0
    gradient_checkpointing: bool = False
    merge: bool = False


def add_adapters(model: TrajVLMForConditionalGeneration, recipe: TrajVLMLoraRecipe) -> PeftModel:
    """The model with adapters on its language model, its connector trained in full, all else frozen."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=round(recipe.lora_alpha * recipe.lora_rank),
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGET_MODULES,
        modules_to_save=list(LORA_MODULES_TO_SAVE),
    )
    return get_peft_model(model, config)


def load_adapted(base: str, adapter: str | Path) -> PeftModel:
    """A base model with an adapter that this script saved.

    Raises:
        ValueError: if the adapter was trained on another base.
    """
    found, trained_on = checkpoint_record(base)["sha256"], Path(adapter) / BASE_RECORD
    if trained_on.is_file():
        record = json.loads(trained_on.read_text(encoding="utf-8"))
        if record["sha256"] != found:
            raise ValueError(
                f"The adapter in {adapter} was trained on {record['name']} (weights "
                f"{record['sha256']['model.safetensors'][:12]}), but the base is {base} (weights "
                f"{found['model.safetensors'][:12]}). Load it with the model that it was trained on."
            )
    model = TrajVLMForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter)


def save_adapter(model: PeftModel, folder: Path, processor: TrajVLMProcessor, recipe: TrajVLMLoraRecipe) -> None:
    """Save the adapter, the record of its base and, if the recipe says so, the merged model beside it."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    record = json.dumps(checkpoint_record(recipe.initial_checkpoint), indent=2)
    (folder / BASE_RECORD).write_text(record + "\n", encoding="utf-8")
    if recipe.merge:
        merged = model.merge_and_unload()
        merged.save_pretrained(folder.parent / "merged")
        processor.save_pretrained(folder.parent / "merged")


def table_of(before: dict[str, float], after: dict[str, float]) -> str:
    """Share of right answers by type of question."""
    rows = [f"{'questions':<20}{'before':>10}{'after':>10}{'majority':>10}"]
    for name in (name for name in after if name.startswith("exact_match/")):
        kind = name.partition("/")[2]
        rows.append(f"{kind:<20}{before[name]:>10.3f}{after[name]:>10.3f}{after[f'majority/{kind}']:>10.3f}")
    return "\n".join(rows)


def train(recipe: TrajVLMLoraRecipe, out: Path, cache: Path, mixed_precision: str) -> dict[str, float]:
    """Run the recipe to its end; returns the last held-out scores."""
    if not recipe.initial_checkpoint:
        raise ValueError("The recipe names no initial_checkpoint, expected a trained TrajVLM to adapt.")
    accelerator = build_accelerator(recipe, mixed_precision)
    with accelerator.main_process_first():
        clips = training_clips(recipe, cache)
    base = TrajVLMForConditionalGeneration.from_pretrained(recipe.initial_checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(recipe.initial_checkpoint)
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

    before = evaluate(base)
    model = add_adapters(base, recipe)
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable()
    after = run_training(
        recipe,
        accelerator,
        out,
        module=AnswerTraining(model),
        model=model,
        clips=clips,
        views=ChatViews(clips, recipe),
        evaluate=evaluate,
        save_final=partial(save_adapter, processor=processor, recipe=recipe),
        collate=ChatCollator(processor),
        shown_score="exact_match",
    )
    if accelerator.is_main_process and after:
        sys.stdout.write(table_of(before, after) + "\n")
    return after


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(__doc__, TrajVLMLoraRecipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
