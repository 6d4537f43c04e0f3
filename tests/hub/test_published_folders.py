"""Published folders of every kind: whatever works with this package works without it, and so does their card."""

import json
import os
import resource
import shutil
import sys

import pytest
import transformers
from huggingface_hub import ModelCard
from publish_to_hub import build_repository, main
from storage import folder_lock, folder_locks

from .test_remote_code import run_as_a_stranger

# Run with the package here and in a process without it: what each Auto class makes of each folder.
LOAD_ALL = """
import hashlib

import torch
import transformers


def digest(model):
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.detach().float().numpy().tobytes())
    return found.hexdigest()


def load_all(folder, names, **settings):
    loaded = {}
    for name in names:
        torch.manual_seed(0)
        try:
            if name.startswith("AutoModel"):
                one, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **settings)
            else:
                one, info = getattr(transformers, name).from_pretrained(folder, **settings), None
        except Exception:
            continue
        loaded[name] = [type(one).__name__, digest(one) if info else ""]
        # What is missing stands nowhere in the file, not even under another prefix.
        for missing in info["missing_keys"] if info else ():
            for key in info["unexpected_keys"]:
                assert not key.endswith(f".{missing}") and not missing.endswith(f".{key}"), (name, key)
    return loaded
"""
# Two folders of one family never share a process: the first would leave its classes behind for the second.
PROCESSES = (
    ("trajvlm", "trajadapter_classifier", "trajvit2", "trajtok"),
    ("trajvlm_base", "trajadapter", "trajvit2_video", "segmenter"),
    ("trajvlm_on_trajvit2", "trajvit2_classifier"),
)
WITHOUT_CARD = ("trajvlm_base",)
MODELS = {
    "trajtok": {"AutoModel": "TrajTokModel"},
    "segmenter": {"AutoModel": "TrajTokSegmenterModel"},
    "trajvit2": {"AutoModel": "TrajViT2Model", "AutoModelForVideoClassification": "TrajViT2ForVideoClassification"},
    "trajadapter": {
        "AutoModel": "TrajAdapterModel",
        "AutoModelForVideoClassification": "TrajAdapterForVideoClassification",
    },
    "trajvlm": {
        "AutoModel": "TrajVLMModel",
        "AutoModelForImageTextToText": "TrajVLMForConditionalGeneration",
        "AutoModelForMultimodalLM": "TrajVLMForConditionalGeneration",
    },
}


# A reader of the card pastes its code blocks, each into a fresh session.
RUN_CARD = """
import re


def run_card(name):
    blocks = re.findall("```python\\n(.*?)```", open(f"{name}/README.md", encoding="utf-8").read(), re.DOTALL)
    for block in blocks:
        assert f'"{name}"' in block and "checkpoints/" not in block, block
        exec(compile(block, name, "exec"), {})
    return len(blocks)
"""


@pytest.fixture
def published(save_checkpoint, tmp_path, shared_data):
    """published(kind) is a folder as it lies on the Hub, at the place where its name leads to it."""
    hub = tmp_path / "home" / "org"
    hub.mkdir(parents=True)
    shutil.copy(shared_data / "clips" / "torchcodec" / "nasa_13013.mp4", hub.parent / "clip.mp4")

    def publish(kind: str) -> str:
        checkpoint, folder = save_checkpoint(kind), hub / kind
        if kind in WITHOUT_CARD:
            checkpoint.rename(folder)
        else:
            build_repository(str(checkpoint), folder, f"org/{kind}", "apache-2.0")
        return str(folder)

    return publish


@pytest.mark.parametrize("kinds", PROCESSES, ids=lambda kinds: kinds[0])
def test_what_works_with_the_package_works_without_it(kinds, published, tmp_path):
    folders = {kind: published(kind) for kind in kinds}
    scope = {}
    exec(LOAD_ALL, scope)
    names = [name for name in dir(transformers) if name.startswith("Auto")]
    names = [name for name in names if hasattr(getattr(transformers, name), "from_pretrained")]
    here = {kind: scope["load_all"](folder, names) for kind, folder in folders.items()}
    working = {kind: list(loaded) for kind, loaded in here.items()}
    done = run_as_a_stranger(
        LOAD_ALL
        + RUN_CARD
        + f"""
import json

found = {{}}
for kind, names in {working!r}.items():
    if kind not in {WITHOUT_CARD!r}:
        assert run_card(f"org/{{kind}}") > 0
    found[kind] = load_all(f"org/{{kind}}", names, trust_remote_code=True)
json.dump(found, open("found.json", "w"))
""",
        tmp_path / kinds[0],
    )
    assert done.returncode == 0, done.stderr
    elsewhere = json.loads((tmp_path / "home" / "found.json").read_text())
    for kind in kinds:
        family = dict(MODELS.get(kind) or MODELS[kind.split("_")[0]])
        if kind == "trajvit2_video":
            family["AutoModel"] = "TrajViT2VideoModel"
        models = {name: loaded[0] for name, loaded in here[kind].items() if name.startswith("AutoModel")}
        assert models == family
        assert {"AutoConfig", "AutoProcessor", "AutoVideoProcessor"} <= here[kind].keys()
        for name, loaded in here[kind].items():
            assert elsewhere[kind].get(name) == loaded, (kind, name)


@pytest.mark.parametrize("kind", ["trajtok", "trajvit2", "trajvlm"])
def test_a_shipped_checkpoint_s_card_tells_its_own_story(kind, tmp_path):
    build_repository(f"checkpoints/{kind}-tiny", tmp_path, f"org/{kind}", "apache-2.0")
    card = ModelCard.load(tmp_path / "README.md")
    assert "2.8 M" in card.text if kind == "trajtok" else "generated worlds" in card.text
    assert "has not told" not in card.text and "import modeling_trajtok" not in card.text
    tasks = {"trajtok": "image-segmentation", "trajvit2": "zero-shot-image-classification"}
    assert card.data.pipeline_tag == tasks.get(kind, "video-text-to-text")
    assert ("zero-shot-video-classification" in card.data.tags) == (kind == "trajvit2")
    headings = {line for line in card.text.splitlines() if line.startswith("#")}
    assert not headings & {"## trajtok-tiny", "## trajvit2-tiny", "## trajvlm-tiny"}


def test_a_card_says_what_its_publisher_knows(save_checkpoint, tmp_path):
    checkpoint, notes = save_checkpoint("trajvit2_classifier"), tmp_path / "notes.md"
    notes.write_text("Trained on *my* clips.", encoding="utf-8")
    arguments = [str(checkpoint), "org/mine", "--dry-run", "--out", str(tmp_path / "hub"), "--license", "other"]
    assert main(arguments) == 0
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "The publisher has not told how this model was trained" in card and "DINOv3 has its own licence" in card
    assert main([*arguments, "--about", str(notes)]) == 0
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "Trained on *my* clips." in card and "has not told" not in card


def test_one_process_at_a_time_writes_the_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder_locks, "PATIENCE_S", 0.1)
    arguments = ["checkpoints/trajtok-tiny", "org/mine", "--dry-run", "--out", str(tmp_path / "hub")]
    with folder_lock(tmp_path / "hub"):
        assert main(arguments) == 1
    assert f"{tmp_path / 'hub'} is in use by another process. Wait" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [".lock"]
    assert main(arguments) == 0
    assert ".lock" not in capsys.readouterr().out


def test_a_full_disk_is_told_on_one_line(tmp_path):
    """A limit on the size of files stands for the disk: there is room for the code, but not for the weights."""
    arguments = ["checkpoints/trajtok-tiny", "org/mine", "--dry-run", "--out", str(tmp_path / "hub")]
    process = os.fork()
    if not process:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        sys.stderr = (tmp_path / "told.txt").open("w", buffering=1)
        status = 99  # an error that `main` does not catch
        try:
            status = main(arguments)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    [error] = [line for line in (tmp_path / "told.txt").read_text().splitlines() if line.startswith("error: ")]
    assert "hub cannot be written: there is no room for it" in error and "start the same command again" in error
    assert main(arguments) == 0


@pytest.mark.parametrize("kind", ["trajvlm_base", "adapter of PEFT"])
def test_what_has_no_card_is_not_published(kind, save_checkpoint, tmp_path, capsys):
    if kind == "trajvlm_base":
        folder, message = save_checkpoint(kind), "holds a TrajVLMModel, expected a model of this package"
    else:
        folder, message = tmp_path, "adapter of PEFT, expected a whole model. Merge it first"
        (tmp_path / "adapter_config.json").write_text("{}")
    assert main([str(folder), "org/mine", "--dry-run"]) == 1
    assert message in capsys.readouterr().err
