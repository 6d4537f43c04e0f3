"""A saved folder carries its code: it loads, with consent, where this package cannot be imported."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor

# Whatever is installed beside the interpreter, an import of this package fails as if it were not there.
STRANGER = """
import sys

class Hidden:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("modeling_trajtok", "processors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def folder(tiny_config, tmp_path):
    """A published model: weights, settings and code."""
    torch.manual_seed(0)
    tiny_config.frames_per_block = 2
    model = TrajTokModel(tiny_config)
    model.save_pretrained(tmp_path / "hub")
    TrajTokVideoProcessor(size={"height": 40, "width": 72}, num_frames=3).save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def run_as_a_stranger(script: str, folder) -> subprocess.CompletedProcess:
    """Run a script in a fresh process, offline, with no cached modules, anywhere but in the repository."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", STRANGER + textwrap.dedent(script)],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def test_the_folder_names_its_code(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_trajtok.TrajTokConfig",
        "AutoModel": "modeling_trajtok.TrajTokModel",
    }
    saved = {path.name for path in folder.glob("*.py")}
    assert {"configuration_trajtok.py", "modeling_trajtok.py", "segmenter_trajtok.py"} <= saved
    assert "video_processing_trajtok.py" in saved and "__init__.py" not in saved


def test_model_and_processor_load_where_the_package_is_not(folder):
    done = run_as_a_stranger(
        f"""
        try:
            import modeling_trajtok
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("the package can be imported, so this proves nothing")
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModel, AutoVideoProcessor

        folder = {str(folder)!r}
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
        frames = torch.arange(5 * 50 * 80 * 3).reshape(5, 50, 80, 3).remainder(251).to(torch.uint8)
        inputs = processor([frames.numpy(), frames[:2].numpy()], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs, output_high_res=True)
        kept = {{name: value.contiguous() for name, value in (*inputs.items(), *outputs.items())}}
        save_file(kept, folder + "/found.safetensors")
        model.save_pretrained("again")
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    found = load_file(folder / "found.safetensors")

    frames = torch.arange(5 * 50 * 80 * 3).reshape(5, 50, 80, 3).remainder(251).to(torch.uint8)
    inputs = TrajTokVideoProcessor.from_pretrained(folder)([frames.numpy(), frames[:2].numpy()], return_tensors="pt")
    with torch.no_grad():
        outputs = TrajTokModel.from_pretrained(folder)(**inputs, output_high_res=True)
    expected = {**inputs, **outputs}
    assert found.keys() == expected.keys()
    assert not expected["frame_valid"].all()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)

    # Fine-tuned by a stranger and published again, the code travels on.
    again = folder.parent / "home" / "again"
    saved = {path.name: path.read_text() for path in again.glob("*.py")}
    assert "segmenter_trajtok.py" in saved
    assert all(text == (folder / name).read_text() for name, text in saved.items())
    weights = TrajTokModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in load_file(again / "model.safetensors").items())


def test_without_consent_nothing_of_the_folder_runs(folder):
    done = run_as_a_stranger(
        f"""
        from transformers import AutoModel, AutoVideoProcessor

        for loader in (AutoModel, AutoVideoProcessor):
            try:
                loader.from_pretrained({str(folder)!r}, trust_remote_code=False)
            except ValueError as error:
                print(loader.__name__, "trust_remote_code=True" in str(error))
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["AutoModel", "True", "AutoVideoProcessor", "True"]
    assert not list((folder.parent / "home").rglob("modeling_trajtok.py"))
