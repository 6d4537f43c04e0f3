"""Publish a checkpoint on the Hugging Face Hub: weights, settings, processor, code and model card.

What you will see: the list of files with their sizes and the address of the repository; with ``--dry-run`` the list
alone. The code files make the checkpoint usable without this package (``trust_remote_code=True``). The card comes from
``model_cards/``, one template for each kind of model; ``--about`` adds what only you know, such as how it was trained.

    python examples/publish_to_hub.py checkpoints/trajvit2-tiny org/trajvit2-tiny --dry-run
    python examples/publish_to_hub.py runs/mine/final org/mine --private --about notes.md

Needs: the package; to push, ``hf auth login`` and a connection.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import safe_open
from storage import LOCK, folder_lock, one_line, telling_full_disk
from transformers import AutoConfig, AutoProcessor, AutoVideoProcessor
from transformers.utils import cached_file

import modeling_trajtok

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).resolve().parent / "model_cards"
# For each class that is published: its template, the Hub's name of its task, and more tags.
KINDS = {
    "TrajTokModel": ("trajtok", "image-segmentation", ["video-tokenization", "video-segmentation"]),
    "TrajTokSegmenterModel": ("segmenter", "image-segmentation", ["video-segmentation"]),
    "TrajViT2Model": ("trajvit2", "zero-shot-image-classification", ["zero-shot-video-classification"]),
    "TrajViT2VideoModel": ("video_tower", "image-feature-extraction", ["video-feature-extraction"]),
    "TrajViT2ForVideoClassification": ("classifier", "video-classification", []),
    "TrajAdapterModel": ("trajadapter", "image-feature-extraction", ["video-feature-extraction"]),
    "TrajAdapterForVideoClassification": ("classifier", "video-classification", []),
    "TrajVLMForConditionalGeneration": ("trajvlm", "video-text-to-text", []),
}
NOT_TOLD = "The publisher has not told how this model was trained, on what data, and what it is not for."


def shipped_notes(checkpoint: str) -> str | None:
    """What MODEL_CARD.md tells about a checkpoint of this repository; None for others."""
    folder = Path(checkpoint).resolve()
    if folder.parent != ROOT / "checkpoints":
        return None
    text = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {folder.name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1].strip()
    return f"{section}\n\nFiles named here are in the repository of the code."


def model_card(repo_id: str, model, processor, licence: str, about: str | None, shipped: bool) -> ModelCard:
    """The card of one model: its own facts, code that runs from the Hub, and what the Hub files it under."""
    class_name, config = type(model).__name__, model.config
    template, task, tags = KINDS[class_name]
    video_processor = getattr(processor, "video_processor", processor)
    size = {name: side for name, side in dict(video_processor.size).items() if side}
    num_frames = getattr(config, "num_frames", None) or video_processor.num_frames
    backbone = getattr(config, "backbone_checkpoint", None)
    whole_captions = getattr(config, "hypothesis_template", None) == "{}"
    labels = ["a dog runs", "a car parks"]
    if whole_captions:
        labels = ["A red star moves left.", "A red star moves right."] if shipped else ["A dog runs.", "A car parks."]
    values = {
        "name": repo_id.split("/")[-1],
        "repo_id": repo_id,
        "architecture": class_name,
        "parameters": f"{sum(value.numel() for value in model.parameters()) / 1e6:.1f} M",
        "num_trajectories": getattr(config, "trajtok_config", config).num_trajectories,
        "num_frames": num_frames,
        "frames": f"{num_frames} frames" if num_frames else f"{video_processor.fps} frames per second",
        "size": " x ".join(map(str, size.values())) + " px" if len(size) > 1 else f"{min(size.values())} px and more",
        "num_labels": config.num_labels,
        "labels": json.dumps(labels),
        "question": "What colour is the star?" if shipped else "What happens in the video?",
        "backbone": backbone,
        "licence": licence,
        "about": about or NOT_TOLD,
    }
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        license=licence,
        license_name="apache-2.0-code-dinov3-weights" if licence == "other" else None,
        base_model=backbone,
        tags=["trajtok", "video", *tags],
    )
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(f"{template}.md").render(values)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n")


def build_repository(
    checkpoint: str, folder: Path, repo_id: str, licence: str, about: str | None = None
) -> list[Path]:
    """Write the files of the repository into a folder; weights keep the precision that they are stored in.

    Args:
        checkpoint: folder or Hub name.
        folder: where to.
        repo_id: the repository's name, which the code of the card uses.
        licence: of the weights.
        about: Markdown on how the model was made and what it is for; of shipped checkpoints it is known.

    Raises:
        ValueError: if the checkpoint is of no model of this package that has a card.
    """
    if (Path(checkpoint) / "adapter_config.json").is_file():
        raise ValueError(
            f"{checkpoint} holds an adapter of PEFT, expected a whole model. Merge it first: "
            "`PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(merged)`."
        )
    config = AutoConfig.from_pretrained(checkpoint)
    class_name = (config.architectures or [""])[0]
    if class_name not in KINDS:
        raise ValueError(
            f"{checkpoint} holds a {class_name or config.model_type}, expected a model of this package "
            f"({', '.join(KINDS)}). Convert files of the original first."
        )
    with safe_open(cached_file(checkpoint, "model.safetensors"), "pt") as weights:
        stored_dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    model = getattr(modeling_trajtok, class_name).from_pretrained(checkpoint, dtype=stored_dtype)
    model.save_pretrained(folder)
    model.config.dtype = config.dtype  # what the checkpoint asks to be loaded in
    model.config.save_pretrained(folder)
    reads_text = cached_file(checkpoint, "processor_config.json", _raise_exceptions_for_missing_entries=False)
    processor = (AutoProcessor if reads_text else AutoVideoProcessor).from_pretrained(checkpoint)
    processor.save_pretrained(folder)
    notes = shipped_notes(checkpoint)
    card = model_card(repo_id, model, processor, licence, about or notes, shipped=notes is not None)
    card.save(folder / "README.md")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def publish(folder: Path, settings: argparse.Namespace) -> None:
    """Write the repository into a folder, list its files and, unless it is a dry run, push them."""
    about = settings.about.read_text(encoding="utf-8").strip() if settings.about else None
    with telling_full_disk(folder):
        files = build_repository(settings.checkpoint, folder, settings.repo_id, settings.license, about)
    for path in files:
        print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    total = sum(path.stat().st_size for path in files)
    print(f"{total:>12,}  {len(files)} files for {settings.repo_id}")
    if not settings.dry_run:
        api = HfApi()
        address = api.create_repo(settings.repo_id, private=settings.private, exist_ok=True)
        api.upload_folder(repo_id=settings.repo_id, folder_path=folder, ignore_patterns=LOCK)
        print(f"published: {address}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of the checkpoint")
    parser.add_argument("repo_id", help="name of the repository, such as org/trajvit2-tiny")
    parser.add_argument("--license", default="apache-2.0", help="'other' for converted checkpoints (DINOv3 weights)")
    parser.add_argument("--about", type=Path, help="Markdown file for the card: how it was trained, scores, limits")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="list the files, push nothing")
    parser.add_argument("--out", type=Path, help="keep the files in this folder")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        try:
            with folder_lock(folder):
                publish(folder, arguments)
        except (ValueError, OSError, HfHubHTTPError) as error:
            sys.stderr.write(f"error: {one_line(error)}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
