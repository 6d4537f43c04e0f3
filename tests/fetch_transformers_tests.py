"""Fetch the common tests of the installed Transformers release: its source archive, from the package index.

Out: <environment>/transformers-<version>/tests     To: tests/transformers_common
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


def main() -> None:
    """Download the source archive with pip and unpack its tests."""
    version = transformers.__version__
    target = Path(sys.prefix)
    if (target / f"transformers-{version}" / "tests").is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*command, "--dest", folder, f"transformers=={version}"], check=True)
        with tarfile.open(next(Path(folder).glob("transformers-*.tar.gz"))) as archive:
            wanted = [entry for entry in archive.getmembers() if entry.name.split("/")[1:2] == ["tests"]]
            archive.extractall(target, members=wanted, filter="data")


if __name__ == "__main__":
    main()
