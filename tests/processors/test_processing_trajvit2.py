"""TrajViT2Processor: videos and texts to tensors, and clear words where something would get lost."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizer
from transformers.utils import logging

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Processor

CLIP = np.zeros((4, 40, 48, 3), np.uint8)


@pytest.fixture
def processor() -> TrajViT2Processor:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=8)
    return TrajViT2Processor(TrajTokVideoProcessor(size={"height": 32, "width": 32}, num_frames=2), tokenizer)


def test_skipped_videos_keep_their_pairing(processor, caplog):
    texts = ["a dog", "dog runs", "runs"]
    logging.enable_propagation()
    inputs = processor(text=texts, videos=[CLIP, b"no video", CLIP], skip_bad_videos=True, return_tensors="pt")
    logging.disable_propagation()
    assert inputs["pixel_values_videos"].shape[0] == 2 and inputs["input_ids"].shape[0] == 3
    assert list(inputs["kept_videos"]) == [0, 2]
    assert [failure["index"] for failure in inputs["failures"]] == [1]
    assert "1 of 3 videos were skipped" in caplog.text


def test_a_processor_without_its_parts_says_so(processor):
    with pytest.raises(ValueError, match="got NoneType as video_processor, expected a TrajTokVideoProcessor"):
        TrajViT2Processor()
    with pytest.raises(ValueError, match="got NoneType as tokenizer"):
        TrajViT2Processor(processor.video_processor)
    with pytest.raises(ValueError, match="as video_processor"):
        TrajViT2Processor(processor.tokenizer, processor.video_processor)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": []}, "an empty list of texts"),
        ({"text": ["a dog", 3]}, "got int as text 2 of 2"),
        ({"text": 3}, "got int as text 1 of 1"),
        ({"images": Image.new("RGB", (40, 40))}, r"got images=.*videos=\[\[image\]\]"),
        ({"text": "a dog", "audio": np.zeros(3)}, "got audio="),
        ({"text": "a dog", "video": CLIP}, r"got video=, which nothing here reads. Did you mean 'videos'\?"),
        ({"videos": CLIP, "num_frame": 3}, r"Did you mean 'num_frames'\?"),
        ({}, "at least one input"),
    ],
)
def test_what_would_get_lost_is_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_numpy_s_texts_are_texts(processor):
    texts = np.array(["a dog", "runs"])
    assert processor(text=list(texts))["input_ids"] == processor(text=["a dog", "runs"])["input_ids"]


def test_it_saves_what_it_is(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "TrajViT2Processor"
    assert TrajViT2Processor.from_pretrained(tmp_path).video_processor.num_frames == 2
