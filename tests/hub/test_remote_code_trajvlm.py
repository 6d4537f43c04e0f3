"""A published TrajVLM, of either kind of tower, answers where this package cannot be imported, in the same words."""

import json

import numpy as np
import pytest
import torch
from publish_to_hub import main
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

from .test_remote_code import run_as_a_stranger

ASK = """
def ask(processor, frames):
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "how many objects ?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
"""


@pytest.fixture(params=["vlm_config", "trajvit2_config"])
def folder(request, vlm_tokenizer, tmp_path):
    """The exact repository."""
    config = request.getfixturevalue(request.param)
    torch.manual_seed(0)
    TrajVLMForConditionalGeneration(config).save_pretrained(tmp_path / "checkpoint")
    processor = TrajVLMProcessor.from_model_config(config, vlm_tokenizer, num_frames=3)
    processor.save_pretrained(tmp_path / "checkpoint")
    assert main([str(tmp_path / "checkpoint"), "org/tiny", "--dry-run", "--out", str(tmp_path / "hub")]) == 0
    return tmp_path / "hub"


def test_it_answers_where_the_package_is_not(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForImageTextToText"] == "modeling_trajvlm.TrajVLMForConditionalGeneration"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: video-text-to-text" in card and "org/tiny" in card
    frames = np.random.default_rng(0).integers(0, 256, (5, 50, 80, 3), dtype=np.uint8)
    np.save(folder.parent / "frames.npy", frames)
    done = run_as_a_stranger(
        f"""
import numpy, torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
{ASK}
folder = {str(folder)!r}
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
inputs = ask(processor, numpy.load({str(folder.parent / "frames.npy")!r}))
with torch.no_grad():
    kept = {{"logits": model(**inputs).logits}}
kept["answer"] = model.generate(**inputs, max_new_tokens=5, do_sample=False)
save_file(kept, folder + "/found.safetensors")
""",
        folder,
    )
    assert done.returncode == 0, done.stderr
    found = load_file(folder / "found.safetensors")
    model, scope = AutoModelForImageTextToText.from_pretrained(folder).eval(), {}
    exec(ASK, scope)
    inputs = scope["ask"](AutoProcessor.from_pretrained(folder), frames)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found["answer"], model.generate(**inputs, max_new_tokens=5, do_sample=False))
