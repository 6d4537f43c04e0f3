"""Nothing of a conversation is passed over: each form of a part reaches the model, or the error names the part."""

import base64
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_trajtok import TrajVLMProcessor
from modeling_trajtok.processors import VideoDecodeError, decode_video

QUESTION = {"type": "text", "text": "what is red ?"}


@pytest.fixture
def processor(vlm_config, vlm_tokenizer) -> TrajVLMProcessor:
    return TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=4)


@pytest.fixture
def clip(tmp_path, bars, encode_clip) -> Path:
    return encode_clip(tmp_path / "a clip.mp4", bars(8, 48, 64))


@pytest.fixture
def pictures(tmp_path, bars) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, frame in zip(paths, bars(4, 48, 64), strict=True):
        Image.fromarray(frame).save(path)
    return paths


def encode(processor, conversation, **settings):
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **settings}
    return processor.apply_chat_template(conversation, **settings)


def ask(*parts, **message) -> list[dict]:
    return [{"role": "user", "content": [*parts, QUESTION], **message}]


def test_every_form_of_a_video_is_seen(processor, clip):
    data = clip.read_bytes()
    encoded = base64.b64encode(data).decode()
    parts = [
        {"type": "video", "video": str(clip)},
        {"type": "video", "path": clip},
        {"type": "video", "url": clip.as_uri()},
        {"type": "video", "video": f"data:video/mp4;base64,{encoded}"},
        {"type": "video", "base64": encoded},
        {"type": "video", "video": data},
        {"type": "video", "video": {"url": str(clip)}},
        {"type": "video_url", "video_url": {"url": clip.as_uri(), "detail": "auto"}},
        {"type": "video_url", "video_url": str(clip)},
        {"type": "input_video", "video_url": str(clip), "cache": None},
        {"video": str(clip)},
        SimpleNamespace(type="video", video=str(clip)),
    ]
    expected = encode(processor, ask(parts[0]))
    for part in parts[1:]:
        inputs = encode(processor, ask(part))
        assert torch.equal(inputs["input_ids"], expected["input_ids"]), part
        assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"]), part


def test_every_form_of_an_image_is_seen(processor, pictures):
    data = pictures[0].read_bytes()
    encoded = base64.b64encode(data).decode()
    expected = encode(processor, ask({"type": "image", "image": Image.open(pictures[0])}))
    assert expected["pixel_values"].shape[0] == 1
    for part in (
        {"type": "image", "path": pictures[0]},
        {"type": "image", "url": pictures[0].as_uri()},
        {"type": "image", "image": data},
        {"type": "image", "base64": encoded},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "input_image", "image_url": pictures[0].as_uri()},
    ):
        inputs = encode(processor, ask(part))
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"]), part
        assert torch.equal(inputs["input_ids"], expected["input_ids"]), part


def test_a_list_of_picture_files_is_one_video(processor, pictures):
    expected = encode(processor, ask({"type": "video", "video": [Image.open(path) for path in pictures]}))
    for frames in (pictures, [str(path) for path in pictures], [path.as_uri() for path in pictures]):
        inputs = encode(processor, ask({"type": "video", "video": frames}))
        assert inputs["pixel_values_videos"].shape[:2] == (1, 4)
        assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


@dataclasses.dataclass
class Message:
    role: str
    content: object
    name: str | None = None


class Model:
    """What Pydantic's models have."""

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self):
        return self.fields


class Plain:
    def __init__(self, role, content):
        self.role, self.content = role, content


def test_messages_may_be_objects(processor, clip):
    content = [{"type": "video", "video": str(clip)}, QUESTION]
    expected = encode(processor, [{"role": "user", "content": content}])
    for message in (
        Message("user", content),
        Message("user", tuple(content)),
        Model(role="user", content=[Model(**part) for part in content], tool_calls=None, annotations=[]),
        Plain("user", content),
        {"role": "user", "content": content, "refusal": None},
    ):
        for conversation in ([message], SimpleNamespace(messages=[message])):
            inputs = encode(processor, conversation)
            assert torch.equal(inputs["input_ids"], expected["input_ids"])
            assert inputs["pixel_values_videos"].shape[0] == 1
    batch = encode(processor, [SimpleNamespace(messages=[Message("user", content)]), [Plain("user", "what ?")]])
    assert batch["input_ids"].shape[0] == 2 and batch["pixel_values_videos"].shape[0] == 1


def test_a_conversation_is_not_changed(processor, clip):
    messages = ask({"type": "video_url", "video_url": {"url": str(clip)}})
    encode(processor, messages)
    assert messages == ask({"type": "video_url", "video_url": {"url": str(clip)}})


def test_what_is_known_of_a_video_may_stand_beside_it(processor):
    processor.use_timestamps = True
    frames = np.zeros((4, 40, 48, 3), np.uint8)
    conversations = [
        ask({"type": "video", "video": frames, "video_metadata": {"fps": 2.0}}),
        ask({"type": "video", "video": frames, "video_metadata": {"fps": 4.0}}),
    ]
    inputs = encode(processor, conversations)
    texts = processor.tokenizer.batch_decode(inputs["input_ids"])
    assert [text.replace(" ", "").count("0.0-1.0seconds") for text in texts] == [1, 0]
    nested = {"processor_kwargs": {"video_metadata": [[{"fps": 2.0}], [{"fps": 4.0}]]}}
    plain = [ask({"type": "video", "video": frames}) for _ in range(2)]
    assert torch.equal(encode(processor, plain, **nested)["input_ids"], inputs["input_ids"])
    with pytest.raises(ValueError, match="expected it in one place"):
        encode(processor, conversations, **nested)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"type": "vidoe", "video": "a.mp4"},
            r"message 1, part 1: got a part of type 'vidoe'.* Did you mean 'video'\?",
        ),
        (
            {"type": "video", "vidoe": "a.mp4"},
            r"part 1: nothing here reads 'vidoe' of a video.* Did you mean 'video'\?",
        ),
        ({"type": "video", "video": "a.mp4", "fps": 2}, "nothing here reads 'fps' of a video.*processor_kwargs"),
        ({"type": "video", "video": "a.mp4", "url": "b.mp4"}, "names its video more than once"),
        ({"type": "video", "video": " "}, "an empty string"),
        ({"type": "video"}, "a part of type video that names none"),
        ({"type": "video", "video": ["clip.mp4"]}, "part 1, frame 1: 'clip.mp4' is no picture"),
        ({"type": "video", "base64": "?"}, "not base64"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}, "nothing here reads 'detail'"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "TrajVLM cannot hear"),
        ({"type": "audio", "audio": "a.wav"}, "TrajVLM cannot hear"),
        ({"type": "file", "file": {"file_id": "x"}}, "a part of type 'file'"),
        ({"kind": "video"}, "a part of type None"),
        ({"type": "text", "text": None}, "got the text None"),
        ({"type": "text", "text": "what ?", "txet": "x"}, "nothing here reads 'txet'"),
        (3, "got 3, expected a dict"),
        (Image.new("RGB", (8, 8)), "expected a dict such as"),
    ],
)
def test_an_unknown_part_is_named(processor, part, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, ask(part))


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "got no messages"),
        ([[]], "Conversation 1 of 1, got no messages"),
        ([ask(), []], "Conversation 2 of 2, got no messages"),
        ([{"content": "what ?"}], "message 1: got the role None"),
        ([{"role": "usr", "content": "what ?"}], r"got the role 'usr'.* Did you mean 'user'\?"),
        ([{"role": "user"}], "message 1: got content of type NoneType"),
        ([{"role": "user", "contents": "what ?"}], r"knows no 'contents'.* Did you mean 'content'\?"),
        ([ask()[0], "what ?"], "message 2: got 'what"),
        ("what ?", "a conversation of type str"),
        ({"role": "user", "content": "what ?"}, "a conversation of type dict"),
        ([ask(), ask({"type": "pdf"})], "Conversation 2 of 2, message 1, part 1"),
        ([{"role": "user", "content": "<|video_pad|> what ?"}], "got 0 videos for 1 placeholders"),
        (ask({"type": "text", "text": "<|image_pad|>"}), "got 0 images for 1 placeholders"),
    ],
)
def test_an_unknown_conversation_is_refused(processor, conversation, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, conversation)


def test_other_doors_pass_over_nothing(processor, clip):
    with pytest.raises(ValueError, match=r"got video=, which nothing here reads. Did you mean 'videos'\?"):
        processor(text="what is red ?", video=str(clip))
    with pytest.raises(ValueError, match="TrajVLM cannot hear"):
        processor(text="what is red ?", audio=np.zeros(8))
    with pytest.raises(ValueError, match="TrajVLM cannot hear"):
        encode(processor, ask(), load_audio_from_video=True)
    for settings in ({"videos": [str(clip)]}, {"processor_kwargs": {"videos": [str(clip)]}}):
        with pytest.raises(ValueError, match="expected them in the conversation"):
            encode(processor, ask(), **settings)
    with pytest.raises(Exception, match="Got a part of type pdf"):
        processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "pdf"}]}], chat_template=processor.chat_template
        )


def test_a_skipped_video_is_missed_by_its_prompt(processor, clip):
    conversations = [ask({"type": "video", "video": video}) for video in (str(clip), b"no video", b"nor this")]
    with pytest.raises(ValueError, match=r"cannot leave out 2 of 3 videos.*video 2: .*video 3: "):
        encode(processor, conversations, processor_kwargs={"videos_kwargs": {"skip_bad_videos": True}})
    with pytest.raises(ValueError, match="cannot leave out 1 of 1 videos"):
        encode(processor, conversations[1], processor_kwargs={"videos_kwargs": {"skip_bad_videos": True}})
    inputs = encode(processor, conversations[:1], processor_kwargs={"videos_kwargs": {"skip_bad_videos": True}})
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values_videos", "frame_valid"}


def test_addresses_of_files_and_data(clip):
    def first(total, *rest):
        return np.zeros(1, int)

    expected = decode_video(str(clip), first).frames_uint8
    encoded = base64.b64encode(clip.read_bytes()).decode()
    for address in (clip.as_uri(), clip.as_uri().replace("file://", "FILE://localhost"), f"data:;base64,{encoded}"):
        assert np.array_equal(decode_video(address, first).frames_uint8, expected)
    for address, message in (
        ("file://elsewhere/clip.mp4", r"a file of another machine \(elsewhere\)"),
        ("data:video/mp4;base64,???", "<data: address of 25 characters>: "),
        ("data:video/mp4", "no comma"),
    ):
        with pytest.raises(VideoDecodeError, match=message) as caught:
            decode_video(address, first)
        assert len(str(caught.value)) < 200
