"""Every Auto class that loads something from a folder with this package loads the same without it."""

import json

import pytest
import transformers

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
    names = [
        name
        for name in dir(transformers)
        if name.startswith("Auto") and hasattr(getattr(transformers, name), "from_pretrained")
    ]
    here = {kind: scope["load_all"](folder, names) for kind, folder in folders.items()}
    working = {kind: list(loaded) for kind, loaded in here.items()}
    done = run_as_a_stranger(
        LOAD_ALL
        + f"""
import json

found = {{}}
for kind, names in {working!r}.items():
    found[kind] = load_all({folders!r}[kind], names, trust_remote_code=True)
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
