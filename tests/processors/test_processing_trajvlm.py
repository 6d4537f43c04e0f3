"""TrajVLMProcessor: as many placeholders as tokens, in the right places, and clear words where that cannot be."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

K = 6


@pytest.fixture
def processor(vlm_config, vlm_tokenizer) -> TrajVLMProcessor:
    return TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=5)


def test_images_have_the_size_of_frames_if_it_is_fixed(vlm_config, vlm_tokenizer):
    def sizes(**settings):
        processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, **settings)
        return [
            {name: side for name, side in dict(one.size).items() if side}
            for one in (processor.image_processor, processor.video_processor)
        ]

    assert sizes() == [{"height": 48, "width": 48}] * 2
    assert sizes(size={"height": 32, "width": 64}) == [{"height": 32, "width": 64}] * 2
    assert sizes(size={"shortest_edge": 64}) == [{"height": 48, "width": 48}, {"shortest_edge": 64}]


def video(frames: int = 5) -> np.ndarray:
    return np.zeros((frames, 30, 40, 3), dtype=np.uint8)


def user(*content) -> list[dict]:
    return [{"role": "user", "content": [*content, {"type": "text", "text": "what is red ?"}]}]


def counts(processor, inputs, token: str) -> list[int]:
    return (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(token)).sum(dim=1).tolist()


def encode(processor, conversations, **settings):
    settings = {
        "tokenize": True,
        "return_dict": True,
        "return_tensors": "pt",
        "add_generation_prompt": True,
    } | settings
    return processor.apply_chat_template(conversations, **settings)


def test_the_prompt_is_qwens(processor):
    conversation = [*user({"type": "video", "video": video()}), {"role": "assistant", "content": "blue ."}]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>what is red ?<|im_end|>\n"
        "<|im_start|>assistant\nblue .<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(("frames_per_chunk", "expected"), [(3, [2, 2, 1]), (4, [2, 2, 1]), (None, [1, 1, 1])])
def test_placeholders_follow_the_valid_frames(processor, frames_per_chunk, expected):
    processor.frames_per_chunk = frames_per_chunk
    clips = [video(9), video(5), video(2)]
    inputs = encode(processor, [user({"type": "video", "video": clip}) for clip in clips])
    assert counts(processor, inputs, "<|video_pad|>") == [K * chunks for chunks in expected]
    assert inputs["frame_valid"].sum(dim=1).tolist() == [5, 5, 2]


def test_images_and_videos_of_several_prompts(processor):
    picture = Image.new("RGB", (60, 40))
    conversations = [
        user({"type": "image", "image": picture}, {"type": "video", "video": video()}),
        user({"type": "video", "video": video()}, {"type": "video", "video": video(2)}),
        user(),
    ]
    inputs = encode(processor, conversations)
    assert inputs["pixel_values"].shape == (1, 3, 48, 48)
    assert inputs["pixel_values_videos"].shape == (3, 5, 3, 48, 48)
    assert counts(processor, inputs, "<|image_pad|>") == [K, 0, 0]
    assert counts(processor, inputs, "<|video_pad|>") == [2 * K, 3 * K, 0]


def test_pictures_and_frames_are_normalised_alike(processor):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    image = encode(processor, [user({"type": "image", "image": picture})])["pixel_values"]
    frame = encode(processor, [user({"type": "video", "video": [picture]})])["pixel_values_videos"]
    torch.testing.assert_close(image[0], frame[0, 0])


def test_a_budget_bounds_the_prompt(processor, vlm_config):
    processor.max_trajectory_tokens = vlm_config.max_trajectory_tokens = 8
    inputs = encode(
        processor, [user({"type": "video", "video": video(5)}), user({"type": "video", "video": video(2)})]
    )
    assert counts(processor, inputs, "<|video_pad|>") == [8, K]
    assert TrajVLMForConditionalGeneration(vlm_config)(**inputs).logits.shape[:2] == inputs["input_ids"].shape


def test_timestamps_stand_before_each_chunk(processor, shared_data):
    processor.use_timestamps = True
    clip = shared_data / "clips" / "torchcodec" / "bt709_full_range.mp4"
    inputs = encode(processor, [user({"type": "video", "path": str(clip)})], return_metadata=True)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert counts(processor, inputs, "<|video_pad|>") == [2 * K]
    times = inputs["video_metadata"][0]["frame_times_s"]
    prompt = processor._video_placeholders([K, K], inputs["video_metadata"][0], 3)
    pads = "<|video_pad|>" * K
    assert prompt == (f"<{times[0]:.1f}-{times[2]:.1f} seconds>{pads}<{times[3]:.1f}-{times[4]:.1f} seconds>{pads}")
    assert text.count("seconds") == 2
    with pytest.raises(ValueError, match="frames of a video in memory have no times"):
        encode(processor, [user({"type": "video", "video": video()})])
    processor.max_trajectory_tokens = 7
    with pytest.raises(ValueError, match="which chunks keep their tokens"):
        encode(processor, [user({"type": "video", "path": str(clip)})])


def test_timestamps_with_the_tokens_of_a_model(processor, vlm_config, shared_data):
    vlm_config.token_selection = processor.token_selection = "valid"
    model = TrajVLMForConditionalGeneration(vlm_config).eval()
    processor.use_timestamps, processor.trajectory_model = True, model
    clip = shared_data / "clips" / "torchcodec" / "bt709_full_range.mp4"
    inputs = encode(processor, [user({"type": "video", "path": str(clip)})])
    tokens = inputs["mm_encoder_outputs"]["video"].pooler_output
    assert counts(processor, inputs, "<|video_pad|>") == [len(tokens[0])]
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape


def test_servers_can_plan_ahead(processor):
    planned = processor._get_num_multimodal_tokens(image_sizes=[(30, 40)], video_sizes=[(5, 30, 40), (2, 30, 40)])
    assert planned["num_image_tokens"] == [K] and planned["num_video_tokens"] == [2 * K, K]


def test_saved_settings_come_back(processor, tmp_path):
    processor.use_timestamps, processor.token_selection = True, "valid"
    processor.trajectory_model = "never/loaded"
    processor.save_pretrained(tmp_path)
    loaded = TrajVLMProcessor.from_pretrained(tmp_path)
    assert (loaded.use_timestamps, loaded.token_selection, loaded.frames_per_chunk) == (True, "valid", 3)
    assert loaded.num_trajectories == K and loaded.video_processor.num_frames == 5
    assert loaded.chat_template == processor.chat_template and loaded.trajectory_model is None


def test_without_saved_settings_none_are_guessed(processor, vlm_config, tmp_path):
    """What a pipeline of Transformers saves: model and parts, not the processor."""
    vlm_config.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pipe\.processor\.save_pretrained\(folder\)"):
        TrajVLMProcessor.from_pretrained(tmp_path)


def test_mistakes_are_named(processor, vlm_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"got 0 videos for 1 placeholders"):
        processor(text="<|video_pad|> what is red ?")
    with pytest.raises(ValueError, match=r"got 2 videos for 1 placeholders .*per prompt: \[1\]"):
        processor(text="<|video_pad|> what ?", videos=[video(), video()])
    with pytest.raises(ValueError, match="got 1 images for 0 placeholders"):
        processor(text="what is red ?", images=[Image.new("RGB", (40, 40))])
    with pytest.raises(ValueError, match="Got an empty question"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video", "video": video()}]}])
    with pytest.raises(ValueError, match="Got an empty question"):
        processor.apply_chat_template([{"role": "user", "content": " \n"}])
    with pytest.raises(ValueError, match="a prompt without a word"):
        processor(text="<|video_pad|>", videos=[video()])
    with pytest.raises(ValueError, match="no input, expected text, images or videos"):
        processor()
    with pytest.raises(
        ValueError, match=r"a prompt of \d+ tokens \(12 of them of images and videos\), expected at most 256"
    ):
        encode(
            processor,
            [
                [
                    {
                        "role": "user",
                        "content": [{"type": "video", "video": video()}, {"type": "text", "text": "red " * 300}],
                    }
                ]
            ],
        )
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        encode(processor, [user({"type": "video", "path": str(tmp_path / "bad.mp4")})])
    with pytest.raises(ValueError, match="The tokenizer has no token '<video>'"):
        TrajVLMProcessor(processor.image_processor, processor.video_processor, vlm_tokenizer, video_token="<video>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, "got NoneType as tokenizer, expected the tokenizer of the language model"),
        ({"image_processor": None}, "got NoneType as image_processor"),
        ({"video_processor": "folder"}, "got str as video_processor, expected a TrajTokVideoProcessor"),
        ({"num_trajectories": "8"}, "num_trajectories='8', expected a whole number of at least 1"),
        ({"num_trajectories": True}, "num_trajectories=True"),
        ({"frames_per_chunk": 0}, "frames_per_chunk=0, expected a whole number of at least 1 or None"),
        ({"max_trajectory_tokens": 2.5}, r"max_trajectory_tokens=2\.5"),
        ({"token_selection": "some"}, "token_selection='some', expected 'all' or 'valid'"),
        ({"use_timestamps": "no"}, "use_timestamps='no', expected True or False"),
        ({"video_token": "<|image_pad|>"}, "as the placeholder of images and of videos, expected two"),
    ],
)
def test_construction_checks_what_calls_need(processor, change, message):
    names = ("image_processor", "video_processor", "tokenizer")
    with pytest.raises(ValueError, match=message):
        TrajVLMProcessor(**{**{name: getattr(processor, name) for name in names}, **change})
    with pytest.raises(ValueError, match="got NoneType as image_processor"):
        TrajVLMProcessor()


def test_numbers_of_numpy_are_saved(processor, tmp_path):
    parts = (processor.image_processor, processor.video_processor, processor.tokenizer)
    settings = {"num_trajectories": np.int64(K), "frames_per_chunk": np.int32(3), "use_timestamps": np.bool_(True)}
    TrajVLMProcessor(*parts, **settings).save_pretrained(tmp_path)
    loaded = TrajVLMProcessor.from_pretrained(tmp_path)
    assert (loaded.num_trajectories, loaded.frames_per_chunk, loaded.use_timestamps) == (K, 3, True)


def test_chunks_without_tokens_keep_their_times(processor, vlm_config, shared_data):
    """The last chunk may have no token; a model is there, so nobody is told to set one."""
    vlm_config.token_selection = processor.token_selection = "valid"
    model = TrajVLMForConditionalGeneration(vlm_config).eval()
    clip = shared_data / "clips" / "torchcodec" / "bt709_full_range.mp4"
    given = model.get_video_features

    def only_the_first_chunk(*args, **kwargs):
        features = given(*args, **kwargs)
        first = [chunks == 0 for chunks in features.token_chunks]
        features.pooler_output = [tokens[mask] for tokens, mask in zip(features.pooler_output, first, strict=True)]
        features.token_chunks = [chunks[mask] for chunks, mask in zip(features.token_chunks, first, strict=True)]
        return features

    model.get_video_features = only_the_first_chunk
    processor.use_timestamps, processor.trajectory_model = True, model
    inputs = encode(processor, [user({"type": "video", "path": str(clip)})])
    assert processor.tokenizer.decode(inputs["input_ids"][0]).count("seconds") == 2
    processor.frames_per_chunk = 4
    with pytest.raises(ValueError, match="has frames_per_chunk=4, its trajectory_model 3, expected the same"):
        encode(processor, [user({"type": "video", "path": str(clip)})])


def test_servers_are_not_told_to_set_a_model_that_is_set(processor, vlm_config):
    processor.token_selection = "valid"
    processor.trajectory_model = TrajVLMForConditionalGeneration(vlm_config)
    with pytest.raises(ValueError, match="only sizes or pixels to count tokens from"):
        processor._get_num_multimodal_tokens(video_sizes=[(5, 30, 40)])
