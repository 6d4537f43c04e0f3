"""Where a result comes from: the facts that a manifest needs so that somebody else can make the same result again.

In:   files, the name of a checkpoint
Out:  plain values for JSON
To:   demo.py, and any script that writes results
"""

import hashlib
import platform
import subprocess
from argparse import Namespace
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers.utils import cached_file

LIBRARIES = ("trajtok", "torch", "transformers", "numpy", "av")


def sha256_of(path: str | PathLike) -> str:
    """SHA-256 of a file that is not empty, as `sha256sum` prints it; memory does not grow with the file."""
    return hashlib.sha256(np.memmap(path, mode="r")).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights in the order of their names; the same in every precision that can hold them."""
    digest = hashlib.sha256()
    for _, value in sorted(module.state_dict().items()):
        exact = value.float() if value.is_floating_point() else value
        digest.update(exact.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def checkpoint_record(name: str) -> dict:
    """Name of a checkpoint (of a folder its last part, or a name on the Hub), hashes of its weights and configuration.

    Raises:
        OSError: the checkpoint has no such file.
    """
    files = ("model.safetensors", "config.json")
    return {"name": short_name(name), "sha256": {file: sha256_of(cached_file(name, file)) for file in files}}


def short_name(name: str | PathLike) -> str:
    """The last part of a folder's name, other names as they are: records do not tell where things lie on a machine."""
    return Path(name).resolve().name if Path(name).is_dir() else str(name)


def settings_record(settings: Namespace) -> dict:
    """Settings of a command line as plain values, without the folders that it works in."""
    values = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    return {name: short_name(value) if isinstance(value, str) else value for name, value in values.items()}


def versions() -> dict[str, str]:
    """Versions of this code and of what it stands on; the commit ends in "-dirty" if files were changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"commit": commit, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
