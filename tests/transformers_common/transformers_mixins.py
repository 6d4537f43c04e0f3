"""Transformers' own common test mixins, which no wheel holds: they are read from the source archive of the release.

`make` fetches the archive of the installed release from the package index (see `fetch_transformers_tests.py`). The
archive leaves some helper modules out; those are replaced by empty ones, so that generation and export tests of the
mixins do not run here. Generation is tested in tests/modeling_trajtok/test_modeling_trajvlm.py.

In:   the folder `tests` of Transformers' source archive     Out:  ModelTesterMixin, ConfigTester, processor mixins
"""

import importlib
import os
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import transformers

PACKAGE = "transformers_own_tests"
STAND_INS = {
    "exporters.test_export": ("ExportTesterMixin",),
    "generation.test_utils": ("GenerationTesterMixin",),
}


def _tests_folder() -> Path:
    folder = os.environ.get("TRANSFORMERS_TESTS")
    beside = Path(sys.prefix) / f"transformers-{transformers.__version__}" / "tests"
    return Path(folder) if folder else beside


def _package(name: str, **contents) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update({"__path__": [], **contents})
    sys.modules[name] = module
    return module


def load_mixins(*names: str) -> list:
    """Classes of Transformers' common tests, by "module.Class" such as "test_modeling_common.ModelTesterMixin".

    Skips the calling test file, in CI fails it, where the archive was not fetched.
    """
    folder = _tests_folder()
    if not folder.is_dir():
        message = f"Transformers' tests are not at {folder}; fetch them: python tests/fetch_transformers_tests.py"
        if os.environ.get("CI"):
            raise FileNotFoundError(message)
        pytest.skip(message, allow_module_level=True)
    if PACKAGE not in sys.modules:
        _package(PACKAGE).__path__ = [str(folder)]
        for module, classes in STAND_INS.items():
            if not (folder / (module.replace(".", "/") + ".py")).exists():
                parent = module.split(".")[0]
                if f"{PACKAGE}.{parent}" not in sys.modules:
                    _package(f"{PACKAGE}.{parent}")
                _package(f"{PACKAGE}.{module}", **{name: type(name, (), {}) for name in classes})
        if not (folder / "utils" / "test_configuration_utils.py").exists():
            _package(f"{PACKAGE}.utils")
            _package(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
    found = []
    for name in names:
        module, attribute = name.split(".")
        # The archive lacks the file that this would execute to get at the library, which is imported already.
        with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):
            found.append(getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute))
    return found
