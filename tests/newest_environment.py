"""Fill a virtual environment with the newest release of every dependency, whatever upper bounds pyproject.toml has.

What is not newer than in the environment that runs this script is taken from there, so little is installed twice.

In:   argv[1] the folder of an empty virtual environment     Out: this package and its newest dependencies in it
"""

import subprocess
import sys
import sysconfig
from importlib.metadata import metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).resolve().parents[1]


def newest_requirements(distribution: str) -> list[str]:
    """All that a distribution and its extras need on this platform, without upper bounds."""
    extras = ["", *metadata(distribution).get_all("Provides-Extra", [])]
    found = []
    for text in requires(distribution):
        needed = Requirement(text)
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if needed.name != distribution:
            needed.marker = None
            needed.specifier = SpecifierSet(
                ",".join(str(bound) for bound in needed.specifier if not bound.operator.startswith("<"))
            )
            found.append(str(needed))
    return sorted(set(found))


def main(folder: str) -> None:
    """Look through to this environment, then upgrade."""
    python = str(Path(folder) / "bin" / "python")
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wanted = newest_requirements("trajtok")
    upgrade = ["install", "--quiet", "--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([python, "-m", "pip", *upgrade, *wanted], check=True)
    editable = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY)]
    subprocess.run([python, "-m", "pip", *editable], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
