"""Train a model on trajectory tokens that tokenize_dataset.py wrote, without the videos.

What makes the tokens stays as it is; all behind it is trained, with `Trainer`: the head of a TrajAdapter or of a
TrajViT2 classifier on labels, the transformer of a TrajViT2 and its texts on captions, the language model of a TrajVLM
on conversations. What is learnt stands among the annotations of the tokens: `label`, `caption` (a text or a list of
texts) or `messages`.

What you will see: a progress bar and losses; with `--held-out` the share of rows (each window of a long video is one)
with the right label, or the held-out loss; in `--out` resumable checkpoints and `final/`. Start the same command again
to continue a run that was stopped.

    python examples/train_from_tokens.py tokens --model org/trajadapter --out runs/head --held-out tokens_test
    accelerate launch examples/train_from_tokens.py tokens --model checkpoints/trajvit2-tiny --out runs/clip
    python examples/train_from_tokens.py tokens --model checkpoints/trajvit2-tiny --classify --out runs/classes

Needs: ``pip install -e ".[train]"``; tokens that this model made (another's are refused).
"""

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from storage import folder_lock, telling_full_disk
from token_data import collate_tokens, load_model, open_tokens, token_maker, video_features
from torch import Tensor
from training.chat_views import with_labels, with_video
from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments

from modeling_trajtok import (
    TrajAdapterForVideoClassification,
    TrajTokVideoProcessor,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
)

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def told(row: dict[str, Any], name: str) -> list[Any]:
    """All that the annotations of a video say under a name, lists taken apart (but for messages).

    Raises:
        ValueError: if they say nothing.
    """
    entries = [entry.get(name) for entry in json.loads(row["annotations"])]
    entries = [entry for entry in entries if entry not in (None, "", [])]
    if not entries:
        raise ValueError(
            f"The tokens of {row['name']} have no {name!r} among their annotations, which this model learns. Tokenize "
            "a folder per class, or a manifest or data set that has it."
        )
    if name == "messages":
        return entries
    return [text for entry in entries for text in (entry if isinstance(entry, list) else [entry])]


def classes_of(rows: Dataset) -> list[str]:
    """The labels of all rows, sorted."""
    return sorted({str(told(row, "label")[0]) for row in rows.select_columns(["name", "annotations"])})


class LabelCollator:
    """Rows to tokens and the numbers of their classes."""

    def __init__(self, label2id: dict[str, int]):
        self.label2id = label2id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``trajectory_embeds``, ``token_valid``, ``labels`` (B,)."""
        labels = torch.tensor([self.label2id[str(told(row, "label")[0])] for row in rows])
        return {**collate_tokens(rows), "labels": labels}


class CaptionCollator:
    """Rows to tokens and one of their captions each, another one each time."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``trajectory_embeds``, ``token_valid``, ``idx`` (B,), ``input_ids`` and ``attention_mask`` (B, S)."""
        captions = [told(row, "caption") for row in rows]
        chosen = [texts[int(torch.randint(len(texts), ()))] for texts in captions]
        texts = self.tokenizer(chosen, padding=True, truncation=True, return_tensors="pt")
        # What is said of a video is true of all its windows.
        videos = torch.tensor([zlib.crc32(row["name"].encode()) for row in rows])
        return {**collate_tokens(rows), **texts, "idx": videos, "return_loss": True}


class ChatCollator:
    """Rows to tokens and one of their conversations each, of which what the assistant says is learnt."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``mm_encoder_outputs``, ``input_ids``, ``attention_mask``, ``labels`` (B, S), padded on the right."""
        shown, tokenizer, written = self.processor.video_token, self.processor.tokenizer, []
        for row in rows:
            conversations = told(row, "messages")
            turns = conversations[int(torch.randint(len(conversations), ()))]
            written.append(
                tokenizer.apply_chat_template(
                    with_video(turns, None),
                    chat_template=self.processor.chat_template.replace(shown, shown * len(row["tokens"])),
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            )
        filling = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "assistant_masks": 0}
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(one[name]) for one in written], batch_first=True, padding_value=value
            )
            for name, value in filling.items()
        }
        return {**with_labels(batch), "mm_encoder_outputs": video_features(rows)}


def prepare(settings: argparse.Namespace) -> tuple[PreTrainedModel, Any, Dataset, Dataset | None, Collator, list[str]]:
    """Model, its processor, rows to learn from and to judge, collator, names of labels."""
    model = load_model(settings.model)
    rows = open_tokens(settings.tokens, model)
    held_out = open_tokens(settings.held_out, model) if settings.held_out else None
    if settings.classify and isinstance(model, TrajViT2Model):
        model = TrajViT2ForVideoClassification.from_pretrained(settings.model, dtype=torch.float32)
    token_maker(model).modules.requires_grad_(False)
    if isinstance(model, (TrajAdapterForVideoClassification, TrajViT2ForVideoClassification)):
        processor = TrajTokVideoProcessor.from_pretrained(settings.model)
        return model, processor, rows, held_out, LabelCollator(new_classes(model, rows, held_out)), ["labels"]
    if isinstance(model, TrajViT2Model):
        processor = AutoProcessor.from_pretrained(settings.model)
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
        tokenizer.model_max_length = model.config.text_config.max_position_embeddings
        return model, processor, rows, held_out, CaptionCollator(tokenizer), []
    if isinstance(model, TrajVLMForConditionalGeneration):
        processor = AutoProcessor.from_pretrained(settings.model)
        return model, processor, rows, held_out, ChatCollator(processor), ["labels"]
    raise ValueError(
        f"{settings.model} is a {type(model).__name__}, expected a TrajAdapter or TrajViT2 classifier, a TrajViT2 or "
        "a TrajVLM. A TrajTok has nothing behind its tokens."
    )


def new_classes(model: PreTrainedModel, rows: Dataset, held_out: Dataset | None) -> dict[str, int]:
    """Give a classifier a new last layer if its classes are not those of the rows; class -> number.

    Raises:
        ValueError: if held-out rows have other classes.
    """
    classes = classes_of(rows)
    if held_out is not None and (unknown := sorted(set(classes_of(held_out)) - set(classes))):
        raise ValueError(
            f"The held-out tokens are of classes that are not trained: {', '.join(unknown[:5])}. Expected some of the "
            f"{len(classes)} of the training tokens: {', '.join(classes[:5])}."
        )
    if list(model.config.id2label.values()) != classes:
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: number for number, name in enumerate(classes)}
        model.num_labels = len(classes)
        model.classifier = torch.nn.Linear(model.classifier.in_features, len(classes))
    return {name: number for number, name in enumerate(classes)}


def train(settings: argparse.Namespace) -> dict[str, float]:
    """Train to the end; returns the held-out scores, if there are any.

    Raises:
        FolderInUseError: another run has the folder.
        OSError: the disk is full; the run goes on from its newest whole checkpoint.
    """
    with folder_lock(settings.out, held=os.environ.get("RANK", "0") == "0"), telling_full_disk(settings.out):
        return _train(settings)


def _train(settings: argparse.Namespace) -> dict[str, float]:
    model, processor, rows, held_out, collator, label_names = prepare(settings)
    classifies = isinstance(collator, LabelCollator)
    arguments = TrainingArguments(
        str(settings.out),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=min(50, settings.steps // 10),
        weight_decay=0.05,
        seed=settings.seed,
        save_steps=max(1, settings.steps // 4),
        save_total_limit=2,
        logging_steps=max(1, settings.steps // 20),
        eval_strategy="steps" if held_out is not None else "no",
        eval_steps=max(1, settings.steps // 4),
        label_names=label_names,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=["tensorboard"],
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=processor,
        compute_metrics=share_of_right_labels if classifies else None,
    )
    # The state is written last.
    whole = [state.parent for state in settings.out.glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.partition("-")[2]), default=None)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    scores = trainer.evaluate() if held_out is not None else {}
    trainer.save_model(str(settings.out / "final"))
    return scores


def share_of_right_labels(found) -> dict[str, float]:
    """Accuracy of `EvalPrediction`."""
    return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="folder that tokenize_dataset.py wrote")
    parser.add_argument("--model", required=True, help="that made the tokens: folder or Hub name")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--held-out", type=Path, help="folder of tokens to be judged on")
    parser.add_argument("--classify", action="store_true", help="labels instead of captions, for a TrajViT2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each process")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args(argv)
    try:
        scores = train(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    if scores:
        print({name: round(value, 4) for name, value in scores.items() if name in ("eval_loss", "eval_accuracy")})
    return 0


if __name__ == "__main__":
    sys.exit(main())
