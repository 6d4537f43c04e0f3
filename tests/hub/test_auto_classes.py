"""Every Auto class that loads something from a folder with this package loads the same without it."""

import json

import pytest

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


def load_all(folder, **settings):
    names = [name for name in dir(transformers) if name.startswith("AutoModel") and hasattr(
        getattr(transformers, name), "from_pretrained")]
    names += ["AutoConfig", "AutoProcessor", "AutoVideoProcessor", "AutoTokenizer", "AutoImageProcessor"]
    loaded = {}
    for name in names:
        torch.manual_seed(0)
        try:
            one = getattr(transformers, name).from_pretrained(folder, **settings)
        except Exception:
            continue
        loaded[name] = [type(one).__name__, digest(one) if hasattr(one, "state_dict") else ""]
    return loaded
"""
# Two folders of one family never share a process: the first would leave its classes behind for the second.
PROCESSES = (
    ("trajvlm", "trajadapter_classifier", "trajvit2", "trajtok"),
    ("trajvlm_base", "trajadapter", "trajvit2_video", "segmenter"),
    ("trajvlm_on_trajvit2", "trajvit2_classifier"),
)
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


@pytest.mark.parametrize("kinds", PROCESSES, ids=lambda kinds: kinds[0])
def test_what_works_with_the_package_works_without_it(kinds, save_checkpoint, tmp_path):
    folders = {kind: str(save_checkpoint(kind)) for kind in kinds}
    scope = {}
    exec(LOAD_ALL, scope)
    here = {kind: scope["load_all"](folder) for kind, folder in folders.items()}
    done = run_as_a_stranger(
        LOAD_ALL
        + f"""
import json

found = {{kind: load_all(folder, trust_remote_code=True) for kind, folder in {folders!r}.items()}}
json.dump(found, open({str(tmp_path / "found.json")!r}, "w"))
""",
        tmp_path / kinds[0],
    )
    assert done.returncode == 0, done.stderr
    elsewhere = json.loads((tmp_path / "found.json").read_text())
    for kind in kinds:
        family = MODELS.get(kind) or dict(MODELS[kind.split("_")[0]])
        if kind == "trajvit2_video":
            family["AutoModel"] = "TrajViT2VideoModel"
        models = {name: loaded[0] for name, loaded in here[kind].items() if name.startswith("AutoModel")}
        assert models == family
        assert {"AutoConfig", "AutoProcessor", "AutoVideoProcessor"} <= here[kind].keys()
        for name, loaded in here[kind].items():
            assert elsewhere[kind].get(name) == loaded, (kind, name)
