"""Zero-shot classification of videos or images by a TrajViT2 checkpoint: the classes are only known by their names.

What you will see: a progress bar over the videos, then top-1, top-5 and a table of the classes with what each is taken
for most often. ``--out`` keeps all of it as JSON, with what is needed to get the same numbers again. A run that was
stopped goes on where it was: embeddings of videos are kept, so other prompts or class names cost seconds.

    python examples/evaluate_zero_shot.py k400/val.csv --videos k400/val --classes kinetics_label_map_k400.txt
    python examples/evaluate_zero_shot.py something-something-v2-validation.json --videos ssv2 \
        --classes sthv2_label_map.txt --prompts plain
    python examples/evaluate_zero_shot.py testlist01.txt --videos UCF-101 --classes classInd.txt --prompts ucf101
    python examples/evaluate_zero_shot.py testTrainMulti_7030_splits --split 1 --videos hmdb51 \
        --classes hmdb51_label_map.txt --prompts ucf101
    python examples/evaluate_zero_shot.py imagenette/val --prompts image             # a folder for each class

Lists hold `path label` (numbers or names), or are csv. The embeddings of a class's prompts are averaged and brought to
length 1, as CLIP does. An image is a clip of one frame.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from evaluation.benchmark_files import (
    TEMPLATES,
    BenchmarkItem,
    ClassList,
    VideoFolder,
    is_class_folder,
    read_class_folders,
    read_classes,
    read_labelled,
    read_templates,
)
from evaluation.benchmark_run import BenchmarkRun, add_arguments, run_benchmark
from evaluation.embedding_cache import VideoRequest, embed_captions
from evaluation.provenance import sha256_of
from evaluation.retrieval_metrics import classification_scores
from torch import Tensor

from modeling_trajtok import TrajViT2Model


def embed_classes(
    model: TrajViT2Model, tokenizer: Any, names: Sequence[str], templates: Sequence[str]
) -> tuple[Tensor, int]:
    """Class names -> (classes, E), the mean over the templates at length 1; and how many prompts were cut."""
    prompts = [template.replace("{}", name) for name in names for template in templates]
    embeds, num_cut = embed_captions(model, tokenizer, prompts)
    return F.normalize(embeds.view(len(names), len(templates), -1).mean(dim=1), dim=-1), num_cut


def read_items(settings: argparse.Namespace) -> tuple[list[BenchmarkItem], ClassList, Path]:
    """The videos, the classes, and the folder of the videos."""
    classes = read_classes(settings.classes) if settings.classes else None
    if is_class_folder(settings.data):
        return *read_class_folders(settings.data, classes), settings.data
    if classes is None or settings.videos is None:
        raise ValueError(
            f"{settings.data} is a list of videos, expected also --classes FILE (the label map) and --videos FOLDER."
        )
    return read_labelled(settings.data, classes, settings.first_label, settings.split), classes, settings.videos


def evaluate(settings: argparse.Namespace) -> dict:
    """Everything between the arguments and the record."""
    items, classes, root = read_items(settings)
    named = settings.prompts in TEMPLATES
    templates = TEMPLATES[settings.prompts] if named else read_templates(settings.prompts, settings.prompt_section)
    folder = VideoFolder(root)
    requests = [VideoRequest(item.video, folder.find(item.video)) for item in items]
    run = BenchmarkRun(settings)
    class_embeds, num_cut = embed_classes(run.model, run.processor.tokenizer, classes.names, templates)
    videos = run.embed(requests)
    labels = np.array([items[index].label for index in videos.kept])
    scores = classification_scores((videos.embeds @ class_embeds.t()).numpy(), labels, len(classes))
    per_class = {
        classes.keys[number]: {
            "name": classes.names[number],
            **values,
            "taken_for": None if values["taken_for"] is None else classes.names[values["taken_for"]],
        }
        for number, values in scores.pop("per_class").items()
    }
    listed = "\n".join(f"{item.video} {classes.keys[item.label]}" for item in items)
    files = [path for path in (settings.data, settings.classes) if path is not None and path.is_file()]
    return run.record(
        "zero-shot classification",
        scores,
        videos,
        counts={
            "classes": len(classes),
            "classes_with_videos": len(per_class),
            "templates": len(templates),
            "texts_cut": num_cut,
        },
        per_class=per_class,
        annotations=[{"file": str(path), "sha256": sha256_of(path)} for path in files],
        list_sha256=hashlib.sha256(listed.encode()).hexdigest(),
        class_names=list(classes.names),
        templates=list(templates),
    )


def show(record: dict) -> None:
    counts, scores = record["counts"], record["scores"]
    print("| class | videos | top-1 | top-5 | most often taken for |\n|---|---:|---:|---:|---|")
    for values in sorted(record["per_class"].values(), key=lambda values: (-values["top1"], values["name"])):
        shares = f"{100 * values['top1']:.1f} | {100 * values['top5']:.1f}"
        print(f"| {values['name']} | {values['count']} | {shares} | {values['taken_for'] or ''} |")
    print(f"| **all** | {counts['videos']} | {100 * scores['top1']:.1f} | {100 * scores['top5']:.1f} | |")
    print(f"\nMean over classes: {100 * scores['mean_class_accuracy']:.1f}; chance: {100 / counts['classes']:.1f}")
    if counts["texts_cut"]:
        print(f"{counts['texts_cut']} prompts were longer than the model reads and were cut.")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="list of videos, folder of HMDB51's splits, or a folder of classes")
    parser.add_argument("--videos", type=Path, help="folder of the videos that a list names")
    parser.add_argument("--classes", type=Path, help="label map: a class per line (default: the folders' names)")
    parser.add_argument("--first-label", type=int, default=0, help="number of the first class in the list: 0 or 1")
    parser.add_argument("--split", type=int, default=1, choices=[1, 2, 3], help="of HMDB51")
    parser.add_argument(
        "--prompts", default="kinetics", help=f"{', '.join(TEMPLATES)}, a file of templates, or CLIP's prompts.md"
    )
    parser.add_argument("--prompt-section", help="data set in prompts.md, such as CIFAR10")
    add_arguments(parser)
    settings = parser.parse_args(argv)
    return run_benchmark(settings, evaluate, show, settings.out)


if __name__ == "__main__":
    sys.exit(main())
