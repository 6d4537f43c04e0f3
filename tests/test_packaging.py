"""The package as it is installed: wheel and editable, into fresh environments, used from elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("modeling_trajtok", "processors")
IMPORTED_FROM_ELSEWHERE = """
import importlib.util
import modeling_trajtok
import modeling_trajtok.processors
from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajTokVideoProcessor
from modeling_trajtok.convert_official_checkpoint import main

assert importlib.util.find_spec("processors") is None, importlib.util.find_spec("processors")
assert modeling_trajtok.processors.TrajTokVideoProcessor is TrajTokVideoProcessor
print(modeling_trajtok.__file__)
print(modeling_trajtok.processors.__file__)
"""


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory) -> Path:
    """What a build reads, outside the checkout, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source") / "trajtok"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    return copy


def run(*command: str | Path, cwd: Path) -> str:
    # Nothing of the caller's path may leak in: only what was installed counts.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(source_copy) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=source_copy)
    (built,) = (source_copy / "dist").glob("trajtok-*.whl")
    return built


@pytest.fixture
def fresh_python(tmp_path) -> Path:
    """Interpreter of an environment that sees the installed dependencies, but not this project."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # A plain path entry shows the packages of the running environment without its .pth files, which is where an
    # editable install of this project would hide.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    probe = "import importlib.util as u; import torch; print(u.find_spec('modeling_trajtok'))"
    assert run(python, "-c", probe, cwd=tmp_path).strip() == "None"
    return python


def install(python: Path, *arguments: str | Path, cwd: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall", *arguments, cwd=cwd)


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"modeling_trajtok", f"{wheel.name.split('-py3')[0]}.dist-info"}
    installed = {name for name in names if name.endswith(".py")}
    expected = {f"modeling_trajtok/{path.name}" for path in (REPOSITORY / "modeling_trajtok").glob("*.py")}
    expected |= {f"modeling_trajtok/processors/{path.name}" for path in (REPOSITORY / "processors").glob("*.py")}
    assert installed == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_installed_wheel_is_imported_from_elsewhere(wheel, fresh_python, tmp_path):
    install(fresh_python, wheel, cwd=tmp_path)
    package, processors = run(fresh_python, "-c", IMPORTED_FROM_ELSEWHERE, cwd=tmp_path).split()
    assert Path(package).is_relative_to(tmp_path) and Path(processors).is_relative_to(Path(package).parent)
    assert Path(processors).parent.name == "processors"


def test_an_editable_install_follows_the_source(source_copy, fresh_python, tmp_path):
    install(fresh_python, "--editable", source_copy, cwd=tmp_path)
    package, processors = run(fresh_python, "-c", IMPORTED_FROM_ELSEWHERE, cwd=tmp_path).split()
    assert Path(package).resolve() == (source_copy / "modeling_trajtok" / "__init__.py").resolve()
    assert Path(processors).resolve() == (source_copy / "processors" / "__init__.py").resolve()


def test_file_names_are_unique_over_both_folders():
    """On the Hub all files lie in one folder, where two of the same name would overwrite each other."""
    stems = [path.name for name in SOURCES for path in (REPOSITORY / name).glob("*.py") if path.name != "__init__.py"]
    assert len(stems) > 15 and len(stems) == len(set(stems))
