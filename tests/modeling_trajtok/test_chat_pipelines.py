"""Chat through Transformers' pipelines: whatever part of a conversation is not understood is an error."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

QUESTION = {"type": "text", "text": "what is red ?"}


@pytest.fixture(params=["image-text-to-text", "any-to-any"])
def chat(request, vlm_config, vlm_tokenizer):
    torch.manual_seed(0)
    model = TrajVLMForConditionalGeneration(vlm_config).eval()
    processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=3)
    pipe = pipeline(request.param, model=model, processor=processor)

    def run(*args, **settings):
        return pipe(*args, **{"max_new_tokens": 3, "return_full_text": False, **settings})

    run.processor = processor
    return run


def ask(*parts) -> list[dict]:
    return [{"role": "user", "content": [*parts, QUESTION]}]


def test_conversations_are_answered(chat, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    paths = []
    for number, frame in enumerate(frames):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(frame).save(paths[-1])
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100)
    gif = (tmp_path / "clip.gif").as_uri()
    expected = chat(text=ask({"type": "video", "path": str(tmp_path / "clip.gif")}))[0]["generated_text"]
    conversations = [
        ask({"type": "video_url", "video_url": {"url": gif}}),
        ask({"type": "video", "video": gif}),
        ask({"type": "video", "video": paths}),
    ]
    answers = chat(text=conversations)
    assert len(answers) == 3
    assert all(answer[0]["generated_text"] == expected for answer in answers[:2])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "vidoe", "video": "a.mp4"}, "got a part of type 'vidoe'"),
        ({"type": "video", "vidoe": "a.mp4"}, "nothing here reads 'vidoe'"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "TrajVLM cannot hear"),
        ({"type": "video", "video": "missing.mp4"}, "no such file"),
    ],
)
def test_an_unknown_part_is_an_error(chat, part, message):
    with pytest.raises(ValueError, match=message):
        chat(text=ask(part))
    with pytest.raises(ValueError, match=message):
        chat(text=[ask(), ask(part)])


def test_prompts_with_placeholders(chat):
    picture = Image.new("RGB", (48, 48))
    prompt = chat.processor.apply_chat_template(ask({"type": "image"}), add_generation_prompt=True)
    assert chat(images=picture, text=prompt)[0]["generated_text"] is not None
    with pytest.raises(ValueError, match="got 0 images for 1 placeholders"):
        chat(text=prompt)
