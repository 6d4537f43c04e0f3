"""A published TrajViT2 loads, with consent, where this package cannot be imported: model, processor and pipeline."""

import json

import numpy as np
import pytest
import torch
from publish_to_hub import main
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizer, pipeline

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Config, TrajViT2Model, TrajViT2Processor

from .test_remote_code import run_as_a_stranger

LABELS = ["a red ball", "a dog", "the sea"]


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """What a training run leaves behind."""
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    config = TrajViT2Config(
        trajtok_config=tiny_config.to_dict()
        | {"encoder_output_size": 32, "track_embedding": True, "outline_embedding": True},
        transformer_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "initializer_range": 0.2,
        },
        text_config={
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "vocab_size": len(pieces),
            "initializer_range": 0.2,
        },
        projection_dim=16,
        num_frames=3,
        initializer_range=0.2,
    )
    TrajViT2Model(config).save_pretrained(tmp_path / "checkpoint")
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=20)
    processor = TrajViT2Processor(TrajTokVideoProcessor(size={"height": 40, "width": 72}, num_frames=3), tokenizer)
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def files_of(folder) -> set[str]:
    """All files but the lock of whoever writes them, which is not uploaded."""
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture
def folder(checkpoint, tmp_path, capsys):
    """The exact repository."""
    assert main([str(checkpoint), "org/tiny", "--dry-run", "--out", str(tmp_path / "hub")]) == 0
    listed = capsys.readouterr().out
    for name in files_of(tmp_path / "hub"):
        assert name in listed
    return tmp_path / "hub"


def frames() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 50, 80, 3), dtype=np.uint8) for count in (5, 2)]


def test_the_repository_is_complete(folder, checkpoint):
    names = files_of(folder)
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {"modeling_trajvit2.py", "processing_trajvit2.py", "zero_shot_video_classification.py"} <= names
    # Saving (and so pushing) the parts one by one gives the same files, but for the card.
    assert names - {"README.md"} == {path.name for path in checkpoint.iterdir()}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card and "license: apache-2.0" in card and "org/tiny" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_trajvit2.TrajViT2Model"
    assert "zero-shot-video-classification" in config["custom_pipelines"]


def test_model_processor_and_pipeline_where_the_package_is_not(folder):
    np.savez(folder.parent / "frames.npz", *frames())
    done = run_as_a_stranger(
        f"""
        import json
        import numpy as np
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModel, AutoProcessor, pipeline

        folder = {str(folder)!r}
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        for one in (model, processor, processor.video_processor):
            assert type(one).__module__.startswith("transformers_modules."), type(one).__module__
        clips = list(np.load(folder + "/../frames.npz").values())
        inputs = processor(videos=clips, text={LABELS!r}, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        save_file({{"logits": outputs.logits_per_video.contiguous()}}, folder + "/../found.safetensors")
        classify = pipeline("zero-shot-video-classification", model=folder, trust_remote_code=True)
        assert type(classify).__module__.startswith("transformers_modules.")
        results = classify(clips, candidate_labels={LABELS!r}, batch_size=2)
        with open(folder + "/../found.json", "w") as file:
            json.dump(results, file)
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    model = TrajViT2Model.from_pretrained(folder)
    inputs = TrajViT2Processor.from_pretrained(folder)(videos=frames(), text=LABELS, return_tensors="pt")
    assert not inputs["frame_valid"].all()
    with torch.no_grad():
        expected = model(**inputs).logits_per_video
    found = load_file(folder.parent / "found.safetensors")["logits"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    results = json.loads((folder.parent / "found.json").read_text())
    classify = pipeline("zero-shot-video-classification", model=str(folder), hypothesis_template="a video of {}.")
    for theirs, ours in zip(results, classify(frames(), LABELS), strict=True):
        assert [entry["label"] for entry in theirs] == [entry["label"] for entry in ours]
        assert [entry["score"] for entry in theirs] == pytest.approx([entry["score"] for entry in ours], abs=1e-4)


def test_without_consent_there_is_a_clear_error(folder):
    done = run_as_a_stranger(
        f"""
        from transformers import AutoModel, AutoProcessor, pipeline

        def load_pipeline(folder, trust_remote_code):
            return pipeline("zero-shot-video-classification", model=folder, trust_remote_code=trust_remote_code)

        for load in (AutoModel.from_pretrained, AutoProcessor.from_pretrained, load_pipeline):
            try:
                load({str(folder)!r}, trust_remote_code=False)
            except (ValueError, KeyError) as error:
                print("trust_remote_code" in str(error))
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3


def test_a_checkpoint_of_another_library_is_not_published(tmp_path, capsys):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=9)).save_pretrained(tmp_path)
    assert main([str(tmp_path), "org/bert", "--dry-run"]) == 1
    assert "expected a model of this package" in capsys.readouterr().err
