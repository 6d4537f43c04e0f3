"""Publish a checkpoint on the Hugging Face Hub: weights, settings, processor, code and model card.

What you will see: the list of files with their sizes and the address of the repository; with ``--dry-run`` the list
alone. The code files make the checkpoint usable without this package (``trust_remote_code=True``). The card is
MODEL_CARD.md with the repository's name in its examples.

    python examples/publish_to_hub.py checkpoints/trajvit2-tiny org/trajvit2-tiny --dry-run
    python examples/publish_to_hub.py runs/mine/final org/mine --private --license other

Needs: the package; to push, ``hf auth login`` and a connection.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from transformers import AutoConfig, AutoProcessor, AutoVideoProcessor
from transformers.utils import cached_file

import modeling_trajtok

MODEL_CARD = Path(__file__).resolve().parents[1] / "MODEL_CARD.md"
TASKS = {
    "trajtok": "image-segmentation",
    "trajvit2": "zero-shot-image-classification",
    "trajvlm": "video-text-to-text",
    "trajadapter": "video-classification",
}
# They read no text.
VIDEO_ONLY = ("trajtok", "trajadapter")


def model_card(repo_id: str, model_type: str, licence: str) -> ModelCard:
    """MODEL_CARD.md, with what the Hub files it under."""
    card = ModelCard.load(MODEL_CARD)
    card.data.library_name, card.data.pipeline_tag = "transformers", TASKS[model_type]
    card.data.license = licence
    if licence != "other":
        card.data.license_name = None
    card.data.tags = sorted({*card.data.tags, model_type})
    shipped = "trajtok-tiny" if model_type == "trajtok" else f"{model_type}-tiny"
    card.text = card.text.replace(f"checkpoints/{shipped}", repo_id)
    return card


def build_repository(checkpoint: str, folder: Path, repo_id: str, licence: str) -> list[Path]:
    """Write the files of the repository into a folder; weights keep the precision that they are stored in.

    Raises:
        ValueError: if the checkpoint is of no model of this package.
    """
    config = AutoConfig.from_pretrained(checkpoint)
    class_name = (config.architectures or [""])[0]
    if config.model_type not in TASKS or not hasattr(modeling_trajtok, class_name):
        raise ValueError(
            f"{checkpoint} holds a {class_name or config.model_type}, expected a model of this package "
            f"({', '.join(TASKS)}). Convert files of the original first."
        )
    with safe_open(cached_file(checkpoint, "model.safetensors"), "pt") as weights:
        stored_dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    model = getattr(modeling_trajtok, class_name).from_pretrained(checkpoint, dtype=stored_dtype)
    model.save_pretrained(folder)
    model.config.dtype = config.dtype  # what the checkpoint asks to be loaded in
    model.config.save_pretrained(folder)
    processors = AutoVideoProcessor if config.model_type in VIDEO_ONLY else AutoProcessor
    processors.from_pretrained(checkpoint).save_pretrained(folder)
    model_card(repo_id, config.model_type, licence).save(folder / "README.md")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of the checkpoint")
    parser.add_argument("repo_id", help="name of the repository, such as org/trajvit2-tiny")
    parser.add_argument("--license", default="apache-2.0", help="'other' for converted checkpoints (DINOv3 weights)")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="list the files, push nothing")
    parser.add_argument("--out", type=Path, help="keep the files in this folder")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        try:
            files = build_repository(arguments.checkpoint, folder, arguments.repo_id, arguments.license)
            for path in files:
                print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
            total = sum(path.stat().st_size for path in files)
            print(f"{total:>12,}  {len(files)} files for {arguments.repo_id}")
            if not arguments.dry_run:
                api = HfApi()
                address = api.create_repo(arguments.repo_id, private=arguments.private, exist_ok=True)
                api.upload_folder(repo_id=arguments.repo_id, folder_path=folder)
                print(f"published: {address}")
        except (ValueError, OSError, HfHubHTTPError) as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
