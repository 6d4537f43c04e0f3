"""Where a result comes from: the facts that a manifest needs so that somebody else can make the same result again.

In:   files, the name of a checkpoint
Out:  plain values for JSON
To:   demo.py, and any script that writes results
"""

import hashlib
import platform
import subprocess
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
    """SHA-256 of a module's weights in the order of their names."""
    digest = hashlib.sha256()
    for _, value in sorted(module.state_dict().items()):
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def checkpoint_record(name: str) -> dict:
    """Name of a checkpoint (a folder, or a name on the Hub) and the hashes of its weights and its configuration.

    Raises:
        OSError: the checkpoint has no such file.
    """
    files = ("model.safetensors", "config.json")
    return {"name": name, "sha256": {file: sha256_of(cached_file(name, file)) for file in files}}


def versions() -> dict[str, str]:
    """Versions of this code and of what it stands on; the commit ends in "-dirty" if files were changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"commit": commit, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
