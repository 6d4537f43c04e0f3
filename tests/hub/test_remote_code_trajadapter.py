"""A published TrajAdapter classifies where this package cannot be imported, with the same numbers."""

import json

import numpy as np
import pytest
import torch
from publish_to_hub import main
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForVideoClassification, AutoVideoProcessor

from modeling_trajtok import TrajAdapterConfig, TrajAdapterForVideoClassification, TrajTokVideoProcessor

from .test_remote_code import run_as_a_stranger


@pytest.fixture
def folder(tiny_config, tmp_path):
    """The exact repository of an adapter that holds its backbone, and of which the frames come in pairs."""
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision |= {"image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    torch.manual_seed(0)
    model = TrajAdapterForVideoClassification(
        TrajAdapterConfig(
            backbone_config=AutoConfig.for_model("videomae", **vision),
            trajtok_config=tiny_config.to_dict() | {"encoder_input_size": None, "encoder_output_size": None},
            num_pooler_heads=3,
            num_labels=3,
        )
    )
    model.save_pretrained(tmp_path / "checkpoint")
    TrajTokVideoProcessor(size={"height": 40, "width": 72}, num_frames=3).save_pretrained(tmp_path / "checkpoint")
    assert main([str(tmp_path / "checkpoint"), "org/tiny", "--dry-run", "--out", str(tmp_path / "hub")]) == 0
    return tmp_path / "hub"


def test_it_classifies_where_the_package_is_not(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForVideoClassification"] == "modeling_trajadapter.TrajAdapterForVideoClassification"
    assert "pipeline_tag: video-classification" in (folder / "README.md").read_text(encoding="utf-8")
    frames = np.random.default_rng(0).integers(0, 256, (5, 50, 80, 3), dtype=np.uint8)
    np.save(folder.parent / "frames.npy", frames)
    done = run_as_a_stranger(
        f"""
        import numpy, torch
        from safetensors.torch import save_file
        from transformers import AutoModelForVideoClassification, AutoVideoProcessor

        folder = {str(folder)!r}
        model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        frames = numpy.load({str(folder.parent / "frames.npy")!r})
        with torch.no_grad():
            logits = model(**processor([frames, frames[:2]], return_tensors="pt")).logits
        save_file({{"logits": logits}}, folder + "/found.safetensors")
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    inputs = AutoVideoProcessor.from_pretrained(folder)([frames, frames[:2]], return_tensors="pt")
    assert not inputs["frame_valid"].all()
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(load_file(folder / "found.safetensors")["logits"], expected, atol=1e-5, rtol=1e-5)
