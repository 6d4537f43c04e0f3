"""TrajVLM: prompts with images and videos give the same words in whatever batch, chunk or order they come."""

import logging
import re
import warnings

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from modeling_trajtok import (
    TrajTokModel,
    TrajViT2Model,
    TrajViT2VideoModel,
    TrajVLMConfig,
    TrajVLMForConditionalGeneration,
    TrajVLMModel,
    TrajVLMProcessor,
)
from modeling_trajtok.modeling_trajvlm import (
    CACHE,
    LORA_MODULES_TO_SAVE,
    LORA_TARGET_MODULES,
    TrajVLMProjection,
    cut_into_chunks,
)
from modeling_trajtok.perceiver_trajtok import TrajTokPerceiver

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
K = 6


def build(config: TrajVLMConfig) -> TrajVLMForConditionalGeneration:
    torch.manual_seed(0)
    return TrajVLMForConditionalGeneration(config).eval()


@pytest.fixture(params=["vlm_config", "trajvit2_config"])
def config(request) -> TrajVLMConfig:
    """A model with each kind of tower."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(config) -> TrajVLMForConditionalGeneration:
    return build(config)


@pytest.fixture
def processor(config, vlm_tokenizer) -> TrajVLMProcessor:
    return TrajVLMProcessor.from_model_config(config, vlm_tokenizer, num_frames=5)


def video(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 48, 48, 3), dtype=np.uint8)


def ask(*entries, question: str = "how many objects ?", answer: str | None = None) -> list[dict]:
    """A conversation about pictures (3 axes) and videos (4 axes)."""
    kinds = [("video" if entry.ndim == 4 else "image", entry) for entry in entries]
    content = [{"type": kind, kind: entry} for kind, entry in kinds] + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def encode(processor, conversations, **settings):
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=conversations[0][-1]["role"] == "user",
        **settings,
    )


def answers(model, inputs, **settings) -> torch.Tensor:
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False} | settings
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


# --- one answer, whatever way it is asked ----------------------------------------------------------------------------


def test_cache_changes_nothing(model, processor):
    inputs = encode(processor, [ask(video(0))])
    logits = model(**inputs).logits
    assert torch.equal(answers(model, inputs), answers(model, inputs, use_cache=False))
    first = {
        name: value[:, :-3] if name in ("input_ids", "attention_mask") else value for name, value in inputs.items()
    }
    more = {"input_ids": inputs["input_ids"][:, -3:], "attention_mask": inputs["attention_mask"]}
    for name in ("cache", "past_key_values"):
        past = model(**first, use_cache=True)[CACHE]
        torch.testing.assert_close(model(**more, **{name: past}).logits, logits[:, -3:], **CLOSE)
    with pytest.raises(ValueError, match="both cache and past_key_values"):
        model(**more, cache=past, past_key_values=past)


def test_a_padded_batch_answers_as_each_prompt_alone(model, processor):
    conversations = [
        ask(video(0)),
        ask(video(1, 9), video(2, 2), question="what is the colour of the objects ?"),
        ask(video(3)[0], video(4), video(5)[1], question="two or three ?"),
        ask(question="what is red ?"),
    ]
    together = encode(processor, conversations)
    assert (together["attention_mask"][:, 0] == 0).sum() == 3  # padding is on the left
    found = answers(model, together)
    with torch.no_grad():
        logits = model(**together).logits[:, -1]
    for row, conversation in enumerate(conversations):
        alone = encode(processor, [conversation])
        with torch.no_grad():
            torch.testing.assert_close(model(**alone).logits[0, -1], logits[row], **CLOSE)
        assert torch.equal(answers(model, alone)[0], found[row])


def test_videos_stand_where_their_placeholders_are(model, processor):
    one, two = video(0), video(1)
    with torch.no_grad():
        logits = [model(**encode(processor, [ask(*pair)])).logits[0, -1] for pair in ((one, two), (two, one))]
        again = model(**encode(processor, [ask(one, two)])).logits[0, -1]
    assert torch.equal(logits[0], again) and not torch.allclose(*logits, **CLOSE)


def test_tokens_made_before_answer_as_pixels_do(model, processor):
    conversations = [ask(video(0), video(1)[0]), ask(video(2), question="what is the colour ?")]
    inputs = encode(processor, conversations)
    pixels = {"pixel_values_videos": inputs["pixel_values_videos"], "frame_valid": inputs["frame_valid"]}
    encoded = {
        "video": model.get_video_features(**pixels),
        "image": model.get_image_features(inputs["pixel_values"]),
    }
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    expected = answers(model, inputs)
    assert torch.equal(answers(model, {**words, "mm_encoder_outputs": dict(encoded)}), expected)
    torch.testing.assert_close(model(**words, mm_encoder_outputs=encoded).logits, model(**inputs).logits, **CLOSE)
    with pytest.raises(ValueError, match="as pixels and in mm_encoder_outputs"):
        model(**inputs, mm_encoder_outputs=encoded)


def test_one_video_is_encoded_once_for_many_questions(model, processor, monkeypatch):
    clip = video(0)
    inputs = encode(processor, [ask(clip)])
    features = model.get_video_features(inputs["pixel_values_videos"], inputs["frame_valid"])
    alone = [answers(model, encode(processor, [ask(clip, question=q)])) for q in ("what is red ?", "how many ?")]
    monkeypatch.setattr(TrajVLMModel, "_features", None)  # nothing is encoded from here on
    for question, expected in zip(("what is red ?", "how many ?"), alone, strict=True):
        words = encode(processor, [ask(clip, question=question)])
        words = {name: words[name] for name in ("input_ids", "attention_mask")}
        assert torch.equal(answers(model, {**words, "mm_encoder_outputs": {"video": features}}), expected)


def test_generation_encodes_videos_once_and_beams_and_samples_work(model, processor, monkeypatch):
    calls = []
    original = TrajVLMModel._features
    monkeypatch.setattr(TrajVLMModel, "_features", lambda *args: calls.append(1) or original(*args))
    inputs = encode(processor, [ask(video(0), video(1)), ask(video(2))])
    beams = answers(model, inputs, num_beams=3)
    assert len(calls) == 1
    for row, conversation in enumerate([ask(video(0), video(1)), ask(video(2))]):
        assert torch.equal(answers(model, encode(processor, [conversation]), num_beams=3)[0], beams[row])
    torch.manual_seed(0)
    sampled = answers(model, inputs, do_sample=True, num_return_sequences=2)
    assert sampled.shape == (4, 6)


def test_words_arrive_one_by_one(model, processor):
    inputs = encode(processor, [ask(video(0))])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    model.generate(**inputs, streamer=streamer, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert "".join(streamer) == processor.tokenizer.decode(
        answers(model, inputs, max_new_tokens=5, min_new_tokens=5)[0]
    )


def test_outputs_are_those_of_this_release(model, processor):
    inputs = encode(processor, [ask(video(0), video(1)[0])])
    whole, base = model(**inputs, use_cache=True), model.model(**inputs, use_cache=True)
    expected = ((whole, CausalLMOutputWithPast, "logits"), (base, BaseModelOutputWithPast, "last_hidden_state"))
    for output, kind, first in expected:
        assert isinstance(output, kind) and isinstance(output.video_outputs, BaseModelOutputWithPooling)
        assert list(output) == [first, CACHE, "image_outputs", "video_outputs"]
        assert output.mm_encoder_outputs == {"image": output.image_outputs, "video": output.video_outputs}
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    again = model(**words, mm_encoder_outputs=whole.mm_encoder_outputs).logits
    torch.testing.assert_close(again, whole.logits)
    assert model(torch.tensor([[9, 11]])).mm_encoder_outputs is None


@pytest.fixture
def told(monkeypatch):
    """What Transformers and Python say while a test runs: all warnings, and what the library logs as such."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    library = transformers.logging.get_logger("transformers")
    type(library).warning_once.cache_clear()
    library.addHandler(handler)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **named: lines.append(str(message)))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield lines
    library.removeHandler(handler)


def test_nothing_deprecated_is_used(config, processor, tmp_path, told):
    build(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    answers(model, encode(processor, [ask(video(0), video(1)[0])]), num_beams=2)
    arguments = TrainingArguments(
        tmp_path / "run", max_steps=1, report_to=[], save_strategy="no", remove_unused_columns=False, use_cpu=True
    )
    batch = encode(processor, [ask(video(0), answer="three")])
    batch = {**batch, "labels": batch["input_ids"]}
    Trainer(model, arguments, train_dataset=[0], data_collator=lambda rows: batch).train()
    assert not [line for line in told if re.search("deprecat|removed in|future|instead", line, re.IGNORECASE)]
    # Either way of telling would have been heard.
    warnings.warn("a warning", FutureWarning, stacklevel=1)
    transformers.logging.get_logger("transformers.some_module").warning_once("a line of the log")
    assert told[-2:] == ["a warning", "a line of the log"]


# --- chunks and tokens -----------------------------------------------------------------------------------------------


def test_clips_are_cut_in_time_and_empty_chunks_left_out():
    pixels = torch.arange(2 * 7).view(2, 7, 1, 1, 1).float().expand(-1, -1, 3, 4, 4)
    valid = torch.arange(7) < torch.tensor([[7], [3]])
    chunks = cut_into_chunks(pixels, valid, 3)
    assert chunks.per_video == [3, 1]
    assert chunks.pixels[..., 0, 0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 6, 6], [7, 8, 9]]
    assert chunks.frame_valid.tolist() == [[True] * 3, [True] * 3, [True, False, False], [True] * 3]
    assert cut_into_chunks(pixels, None, None).pixels.shape[:2] == (2, 7)


@pytest.mark.parametrize("frames_per_chunk", [3, 4, None])
def test_padding_changes_no_token(config, frames_per_chunk):
    config.frames_per_chunk = frames_per_chunk
    model = build(config)
    clip = torch.randn(1, 5, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    padded = torch.cat((clip, clip[:, -1:].expand(-1, 6, -1, -1, -1)), dim=1)
    with torch.no_grad():
        alone = model.get_video_features(clip)
        batch = model.get_video_features(
            torch.cat((torch.randn(1, 11, 3, 48, 48), padded)), torch.arange(11) < torch.tensor([[11], [5]])
        )
    torch.testing.assert_close(batch.pooler_output[1], alone.pooler_output[0], **CLOSE)
    assert torch.equal(batch.trajectory_ids[1], alone.trajectory_ids[0])
    assert alone.pooler_output[0].shape == ({3: 2, 4: 2, None: 1}[frames_per_chunk] * K, 32)


def test_only_valid_trajectories_become_tokens(vlm_config):
    clip = torch.randn(2, 7, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        everything = build(vlm_config).get_video_features(clip)
        vlm_config.token_selection = "valid"
        model = build(vlm_config)
        valid = model.get_video_features(clip)
        vlm_config.max_trajectory_tokens = 4
        budget = build(vlm_config).get_video_features(clip)
    for b in range(2):
        # What a trajectory owns is counted on the vision tower's grid, chunk by chunk.
        owned = []
        for chunk in range(3):
            frames = clip[b : b + 1, 3 * chunk : 3 * chunk + 3]
            with torch.no_grad():
                out, _ = model.model._encode_chunks(frames, torch.ones(1, frames.shape[1], dtype=torch.bool), {})
            owned += [(chunk, k, int(out.num_patches[0, k])) for k in range(K)]
        kept = [(chunk, k) for chunk, k, patches in owned if patches]
        assert 4 < len(kept) < 3 * K
        found = list(zip(valid.token_chunks[b].tolist(), valid.token_trajectories[b].tolist(), strict=True))
        assert found == kept
        places = [chunk * K + k for chunk, k in kept]
        torch.testing.assert_close(valid.pooler_output[b], everything.pooler_output[b][places], **CLOSE)
        largest = sorted(sorted(owned, key=lambda one: -one[2])[:4])
        found = zip(budget.token_chunks[b].tolist(), budget.token_trajectories[b].tolist(), strict=True)
        sizes = {(chunk, k): patches for chunk, k, patches in owned}
        assert sorted(sizes[one] for one in found) == sorted(patches for *_, patches in largest)


def test_prompts_get_shorter_with_simple_scenes(config, vlm_tokenizer):
    config.token_selection = "valid"
    model, processor = build(config), TrajVLMProcessor.from_model_config(config, vlm_tokenizer, num_frames=5)
    with pytest.raises(ValueError, match=r"Set processor\.trajectory_model = model"):
        encode(processor, [ask(video(0))])
    processor.trajectory_model = model
    inputs = encode(processor, [ask(video(0), video(1)[0]), ask(video(2))])
    encoded = inputs["mm_encoder_outputs"]
    placeholders = (inputs["input_ids"] == config.video_token_id).sum(dim=1).tolist()
    assert placeholders == [len(tokens) for tokens in encoded["video"].pooler_output]
    assert sum(placeholders) < 2 * 2 * K
    assert answers(model, inputs).shape == (2, 6)
    assert torch.equal(answers(model, encode(processor, [ask(video(2))]))[0], answers(model, inputs)[1])


def test_layers_of_the_tower_are_told_on_request(config):
    model = build(config)
    model.set_attn_implementation("eager")
    tower = config.vision_config
    grouped = config.has_trajectory_tower
    sizes = tower.transformer_config if grouped else tower
    layers, heads = sizes.num_hidden_layers, sizes.num_attention_heads
    # A TrajViT2 sees a chunk of 3 frames at once, and has CLS before its tokens; a SigLIP sees 36 patches of a frame.
    tokens, per_chunk = (1 + K, 1) if grouped else (36, 3)
    clip = torch.randn(2, 5, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        plain = model.get_video_features(clip)
        told = model.get_video_features(clip, **asked)
        image = model.get_image_features(clip[:, 0], **asked)
    assert plain.hidden_states is None and plain.attentions is None
    torch.testing.assert_close(told.pooler_output, plain.pooler_output)
    for features, chunks, frames in ((told, 4, per_chunk), (image, 2, 1)):
        rows = chunks * frames
        assert [state.shape[:2] for state in features.hidden_states] == [(rows, tokens)] * (layers + 1)
        assert [weights.shape for weights in features.attentions] == [(rows, heads, tokens, tokens)] * layers
    assert isinstance(model.get_video_features(clip, return_dict=False), tuple)
    # The configuration may ask for them as well.
    model.config.vision_config.output_hidden_states = True
    assert len(model.model.get_image_features(clip[:, 0]).hidden_states) == layers + 1


def test_outputs_of_a_whole_model_name_all_layers(model, processor):
    inputs = encode(processor, [ask(video(0), video(1)[0])])
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        told = model(**inputs, **asked)
        pairs = model(**inputs, **asked, return_dict=False)
    assert len(told.hidden_states) == 3 and len(told.attentions) == 2
    for features in (told.image_outputs, told.video_outputs):
        assert features.hidden_states and features.attentions
    assert torch.equal(pairs[0], told.logits) and len(pairs) == len(told)


def test_siglip2_reads_patches_of_any_shape(vlm_config):
    vision = vlm_config.vision_config.to_dict() | {"model_type": "siglip2_vision_model", "num_patches": 36}
    model = build(TrajVLMConfig(**{**vlm_config.to_dict(), "vision_config": vision}))
    with torch.no_grad():
        for height, width in ((48, 48), (32, 64)):
            clip = torch.randn(1, 3, 3, height, width)
            patches, grid = model.model._vision_patches(clip, {})
            assert tuple(grid) == (3, height // 8, width // 8)
            assert patches.last_hidden_state.shape == (3, grid.patches_per_frame, 40)
            # A patch goes in as rows, columns, channels: what Siglip2ImageProcessor makes of it.
            assert model.get_video_features(clip).pooler_output[0].shape == (K, 32)


def test_each_tower_gets_its_own_normalisation(vlm_config):
    model = build(vlm_config)
    seen = {}
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(vision=kwargs["pixel_values"]), with_kwargs=True
    )
    model.model.grouping.segmenter.register_forward_pre_hook(lambda module, args: seen.update(segmenter=args[0]))
    grey = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).expand(-1, 48, 48)  # the mean of ImageNet
    model.get_image_features(torch.zeros(1, 3, 48, 48))
    torch.testing.assert_close(seen["vision"][0], (grey - 0.5) / 0.5)
    assert seen["segmenter"].shape == (1, 1, 3, 32, 32) and not seen["segmenter"].any()
    vlm_config.vision_image_mean = vlm_config.vision_image_std = None
    model.get_image_features(torch.zeros(1, 3, 48, 48))
    assert not seen["vision"].any()


# --- attention, precision, devices -----------------------------------------------------------------------------------


def test_attention_implementation_reaches_every_tower(config, processor, tmp_path):
    model = build(config)
    inputs = encode(processor, [ask(video(0))])
    model.save_pretrained(tmp_path)
    for attention in ("eager", "sdpa"):
        loaded = TrajVLMForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=attention)
        parts = [loaded, *(m for m in loaded.modules() if hasattr(m, "config"))]
        assert {part.config._attn_implementation for part in parts} == {attention}
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, **CLOSE)
    loaded.set_attn_implementation("eager")
    perceivers = [module for module in loaded.modules() if isinstance(module, TrajTokPerceiver)]
    assert perceivers and {one.layers[0].attention.config._attn_implementation for one in perceivers} == {"eager"}


def test_bf16(model, processor):
    inputs = encode(processor, [ask(video(0), video(1)[0])])
    expected = model(**inputs).logits
    logits = model.to(torch.bfloat16)(**inputs).logits
    assert logits.dtype == torch.bfloat16
    # Some patches of the random model lie between two trajectories, and change sides.
    assert torch.cosine_similarity(logits.float().flatten(), expected.flatten(), dim=0) > 0.9


def test_device_map(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    inputs = encode(processor, [ask(video(0))])
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="auto", max_memory={"cpu": "1GB"})
    assert torch.equal(answers(loaded, inputs), answers(model, inputs))
    split = {"model.vision_tower", "model.grouping", "model.language_model", "lm_head"}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map=dict.fromkeys(split, "cpu"))
    assert torch.equal(answers(loaded, inputs), answers(model, inputs))


# --- training --------------------------------------------------------------------------------------------------------


def labels_of(processor, conversations):
    inputs = encode(processor, conversations, return_assistant_tokens_mask=True)
    mask = inputs.pop("assistant_masks").bool()
    return inputs, inputs["input_ids"].masked_fill(~mask, -100)


def test_the_loss_reaches_what_it_should(vlm_config, vlm_tokenizer):
    model = build(vlm_config)
    processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=5)
    inputs, labels = labels_of(processor, [ask(video(0), answer="two red"), ask(video(1), answer="three")])
    learnt = [processor.tokenizer.decode(row[row >= 0]) for row in labels]
    assert learnt == ["two red <|im_end|>", "three <|im_end|>"]
    model.train()
    model(**inputs, labels=labels).loss.backward()
    untrained = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    heads = ("patch_head", "trajectory_head", "assignment")
    assert untrained and all(name.split(".")[4] in heads for name in untrained), untrained
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None} - untrained
    assert missing == set()
    zero = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and not parameter.grad.any()
    }
    assert not any("patch_encoder" in name or "perceiver" in name for name in zero), zero


def test_the_loss_reaches_every_part_of_a_trajvit2_tower(trajvit2_config, vlm_tokenizer):
    model = build(trajvit2_config).train()
    processor = TrajVLMProcessor.from_model_config(trajvit2_config, vlm_tokenizer, num_frames=5)
    inputs, labels = labels_of(processor, [ask(video(0), answer="two red")])
    model(**inputs, labels=labels).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    reached = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
    for part in ("patch_encoder", "encoder.", "transformer", "connector", "embed_tokens"):
        assert any(part in name for name in reached), part


def test_what_gets_no_gradient_stays_frozen_after_loading(vlm_config, tmp_path):
    model = build(vlm_config)
    model.save_pretrained(tmp_path)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    loaded, _ = TrajVLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert frozen and {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen


def checkpoint_activations(model, **settings) -> None:
    """By the name that this release has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings or None)
    else:
        model.gradient_checkpointing_enable(settings or None)


@pytest.mark.parametrize("settings", [{}, {"use_reentrant": True}], ids=["usual", "reentrant"])
def test_checkpointed_activations_give_the_same_gradients(model, processor, settings):
    inputs, labels = labels_of(processor, [ask(video(0), answer="two red")])
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model, **settings)
            model.enable_input_require_grads()  # a reentrant checkpoint needs an input that asks for a gradient
            calls = count_calls(model)
        model.zero_grad()
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    # Every layer that learns runs again.
    learns = {name: any(key.startswith(name) for key in found[0]) for name in calls}
    assert {name: calls[name] >= 2 for name in calls} == learns and sum(learns.values()) >= 4
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-3)


def count_calls(model) -> dict[str, int]:
    """How often a part of each checkpointed layer is called from now on."""
    calls = {}
    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer):
            calls[name] = 0
            part = next(module for module in layer.modules() if isinstance(module, torch.nn.Linear))

            def count(module, args, name=name):
                calls[name] += 1

            part.register_forward_pre_hook(count)
    return calls


class Collator:
    def __init__(self, processor):
        self.processor = processor

    def __call__(self, examples):
        inputs, labels = labels_of(self.processor, [example["messages"] for example in examples])
        return {**inputs, "labels": labels}


def trained(model, processor, tmp_path, **settings):
    examples = [{"messages": ask(video(n), answer=("two", "three red", "blue", "red")[n])} for n in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        learning_rate=1e-2,
        optim="sgd",
        max_grad_norm=1e9,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        seed=0,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=Collator(processor))
    trainer.train()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_accumulated_steps_are_one_big_batch(config, processor, tmp_path):
    big = trained(build(config), processor, tmp_path / "big", per_device_train_batch_size=4)
    small = trained(
        build(config),
        processor,
        tmp_path / "small",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
    )
    start = dict(build(config).named_parameters())
    assert any(not torch.equal(big[name], start[name]) for name in big)
    for name, value in big.items():
        torch.testing.assert_close(value, small[name], atol=2e-6, rtol=1e-4)


# --- PEFT ------------------------------------------------------------------------------------------------------------


def lora_of(model):
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=2,
            init_lora_weights=False,
            target_modules=LORA_TARGET_MODULES,
            modules_to_save=list(LORA_MODULES_TO_SAVE),
        ),
    )


def test_lora_trains_the_language_model_and_the_connector_alone(config):
    model = lora_of(build(config))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    adapted = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
    kinds = {name.rpartition(".")[2] for name in adapted}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapted) == 7 * 2 and all(".language_model." in name for name in adapted)
    others = [name for name in trained if ".lora_" not in name]
    assert others and all(".grouping.connector.modules_to_save." in name for name in others)
    assert not any("vision_tower" in name or ".segmenter." in name for name in trained)


def test_an_adapter_is_saved_loaded_and_merged(config, processor, tmp_path):
    inputs = encode(processor, [ask(video(0)), ask(video(1))])
    model = lora_of(build(config)).eval()
    with torch.no_grad():
        for parameter in model.base_model.model.model.grouping.connector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert not torch.allclose(expected, build(config)(**inputs).logits, **CLOSE)
    loaded = PeftModel.from_pretrained(build(config), tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected, **CLOSE)
    before = answers(loaded, inputs)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, TrajVLMForConditionalGeneration)
    torch.testing.assert_close(merged(**inputs).logits, expected, **CLOSE)
    assert torch.equal(answers(merged, inputs), before)


def test_lora_with_checkpointing_and_accumulation(config, processor, tmp_path):
    model = lora_of(build(config))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    after = trained(
        model,
        processor,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
    )
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(".lora_B." in name for name in moved) and any(".connector." in name for name in moved)
    assert all(".lora_" in name or ".modules_to_save." in name for name in moved)


# --- saving, building from parts -------------------------------------------------------------------------------------


def test_save_and_load_through_the_auto_classes(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = (
        AutoModelForImageTextToText.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    )
    assert type(loaded) is TrajVLMForConditionalGeneration and type(loaded_processor) is TrajVLMProcessor
    inputs = encode(loaded_processor, [ask(video(0), video(1)[0])])
    assert torch.equal(answers(loaded, inputs), answers(model, encode(processor, [ask(video(0), video(1)[0])])))
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    answer = pipeline("image-text-to-text", model=str(tmp_path))(
        text=ask(video(0)), max_new_tokens=4, return_full_text=False
    )
    expected = answers(model, encode(processor, [ask(video(0))]), max_new_tokens=4, min_new_tokens=0)
    assert answer[0]["generated_text"].strip() == processor.tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize("whole_siglip", [True, False])
@pytest.mark.parametrize("as_folders", [True, False])
def test_from_components(vlm_config, vlm_tokenizer, tiny_config, tmp_path, whole_siglip, as_folders):
    torch.manual_seed(3)
    vision_config = vlm_config.vision_config
    if whole_siglip:
        text = {
            "hidden_size": 40,
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 9,
        }
        vision = SiglipModel(SiglipConfig(vision_config=vision_config.to_dict(), text_config=text))
    else:
        vision = SiglipVisionModel(vision_config)
    trajtok, text = TrajTokModel(tiny_config), Qwen3ForCausalLM(vlm_config.text_config)
    parts = {"vision": vision, "trajtok": trajtok, "text": text}
    if as_folders:
        for name, part in parts.items():
            part.save_pretrained(tmp_path / name)
        parts = {name: tmp_path / name for name in parts}
    model = TrajVLMForConditionalGeneration.from_components(
        **parts,
        image_token_id=vlm_config.image_token_id,
        video_token_id=vlm_config.video_token_id,
        num_connector_heads=2,
        segmenter_size_px=32,
    ).eval()
    words = torch.tensor([[9, 11, 13]])
    torch.testing.assert_close(model(words).logits, text.eval()(words).logits)
    tower = vision.vision_model if whole_siglip else vision
    pictures = torch.randn(1, 3, 48, 48)
    found = model.model.vision_tower.eval()(pictures).last_hidden_state
    torch.testing.assert_close(found, tower.eval()(pictures).last_hidden_state)
    clip = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        expected = trajtok.eval()(clip).trajectory_ids
        assert torch.equal(model.model.grouping.segmenter(clip).trajectory_ids, expected)


def starts(model) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each parameter."""
    return {name: (float(p.mean()), float(p.std(correction=0))) for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", ["nothing", "language_model", "connector", "vision_tower"])
def test_what_a_checkpoint_lacks_starts_as_in_a_new_model(config, parts):
    """Whatever a folder holds, and however the model is built, a weight has the distribution that its rule says."""
    new = build(config)
    held = {name: torch.full_like(value, 7.0) for name, value in new.state_dict().items() if parts in name}
    loaded = TrajVLMForConditionalGeneration.from_pretrained(None, config=config, state_dict=held)
    expected, found = starts(new), starts(loaded)
    for name, parameter in loaded.named_parameters():
        if name in held:
            assert found[name] == (7.0, 0.0), name
            continue
        mean, std = expected[name]
        # Half a thousandth of the time a sample of this size is further away.
        tolerance = 3.5 * std / parameter.numel() ** 0.5
        assert abs(found[name][0] - mean) <= 2 * tolerance + 1e-6 and abs(found[name][1] - std) <= 2 * tolerance, name
    projections = [module for module in loaded.modules() if isinstance(module, TrajVLMProjection)]
    assert len(projections) == 3
    for one in projections:
        if parts != "connector":
            assert float(one.weight.std()) == pytest.approx(one.in_features**-0.5, rel=0.1)
    if not config.has_trajectory_tower and parts != "connector":
        query = loaded.model.grouping.connector.query_proj
        assert float(query.weight.std()) == pytest.approx(config.initializer_range, rel=0.1)
        assert not query.bias.any()
    if not config.has_trajectory_tower and parts != "vision_tower":
        # SigLIP's own rule, which stands at the MLP and not at its linear layers.
        first = loaded.model.vision_tower.encoder.layers[0].mlp.fc1
        assert float(first.weight.abs().max()) <= (6 / (40 + 44)) ** 0.5
        assert float(first.weight.std()) == pytest.approx((2 / (40 + 44)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_of_words_grow(config, processor, tied):
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = tied
    model = build(config)
    inputs = encode(processor, [ask(video(0))])
    with torch.no_grad():
        expected = model(**inputs).logits
        size = model.get_input_embeddings().num_embeddings
        model.resize_token_embeddings(size + 5)
        logits = model(**inputs).logits
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert logits.shape[-1] == size + 5 == model.config.text_config.vocab_size == model.lm_head.out_features
    torch.testing.assert_close(logits[..., :size], expected)
    inputs["input_ids"][0, 1] = size + 4
    assert model(**inputs, labels=inputs["input_ids"]).loss.isfinite()
    assert "lm_head" in model.tp_plan
    if not config.has_trajectory_tower:
        grouping = model.model.grouping
        grouping.set_input_embeddings(new := torch.nn.Conv2d(3, 8, 4, 4))
        assert grouping.get_input_embeddings() is grouping.segmenter.get_input_embeddings() is new


def test_from_components_with_another_language_model(vlm_config, tiny_config):
    text = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    model = TrajVLMForConditionalGeneration.from_components(
        vision=SiglipVisionModel(vlm_config.vision_config),
        trajtok=TrajTokModel(tiny_config),
        text=text,
        image_token_id=20,
        video_token_id=21,
        num_connector_heads=2,
        segmenter_size_px=32,
    ).eval()
    assert model.config.text_config.vocab_size == 22 and model.lm_head.weight.shape == (22, 32)
    assert model.lm_head.weight is model.model.language_model.wte.weight
    assert not model.tp_plan  # GPT2 has none, so that its head cannot be sharded without it
    ids = torch.tensor([[5, *[21] * K, 7]])
    logits = model(ids, pixel_values_videos=torch.randn(1, 2, 3, 48, 48)).logits
    assert logits.shape == (1, K + 2, 22)
    assert isinstance(AutoModelForCausalLM.from_config(model.config.text_config), GPT2LMHeadModel)


@pytest.mark.parametrize("kind", ["model", "tower", "folder"])
def test_from_components_with_a_trajvit2(trajvit2_config, vlm_config, tmp_path, kind):
    config = trajvit2_config
    whole, text = TrajViT2Model(config.vision_config).eval(), Qwen3ForCausalLM(config.text_config)
    whole.save_pretrained(tmp_path)
    vision = {"model": whole, "tower": TrajViT2VideoModel.from_pretrained(tmp_path), "folder": tmp_path}[kind]
    tokens = {"image_token_id": config.image_token_id, "video_token_id": config.video_token_id}
    model = TrajVLMForConditionalGeneration.from_components(vision=vision, text=text, **tokens).eval()
    clip = torch.zeros(1, 4, 3, 48, 48)  # so plain that some trajectories stay empty
    with torch.no_grad():
        states = whole.video_model(clip, tokens_per_trajectory=1).last_hidden_state[:, 1:]
        features = model.get_video_features(clip)
        assert torch.equal(features.last_hidden_state, states)
        owned = features.trajectory_ids[0].unique()
        assert len(owned) < K
        assert features.pooler_output[0].any(dim=-1).nonzero().flatten().tolist() == owned.tolist()
    with pytest.raises(ValueError, match="expected none: a TrajViT2 has its own"):
        TrajVLMForConditionalGeneration.from_components(vision=vision, text=text, trajtok=tmp_path, **tokens)
    with pytest.raises(ValueError, match="expected one: the segmenter"):
        TrajVLMForConditionalGeneration.from_components(
            vision=SiglipVisionModel(vlm_config.vision_config), text=text, **tokens
        )


# --- bad input -------------------------------------------------------------------------------------------------------


def test_mistakes_are_named(model, processor):
    inputs = encode(processor, [ask(video(0))])
    with pytest.raises(ValueError, match="11 video placeholders for 12 trajectory tokens"):
        model(**{**inputs, "input_ids": inputs["input_ids"].where(torch.arange(inputs["input_ids"].shape[1]) != 8, 9)})
    with pytest.raises(ValueError, match="expected one of them"):
        model(attention_mask=inputs["attention_mask"])
    with pytest.raises(ValueError, match=r"frame_valid of shape \(1, 3\), expected \(1, 5\)"):
        model(**{**inputs, "frame_valid": torch.ones(1, 3)})
    with pytest.raises(ValueError, match="expected \\(videos, frames, 3, height, width\\)"):
        model.get_video_features(torch.zeros(3, 3, 48, 48))
    with pytest.raises(ValueError, match=r"300 tokens .*expected at most 256.*max_trajectory_tokens"):
        model(torch.zeros(1, 300, dtype=torch.long))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames_per_chunk": 0}, "frames_per_chunk=0, expected None or at least 1"),
        ({"num_connector_heads": 3}, "Try num_connector_heads="),
        ({"image_token_id": 7, "video_token_id": 7}, "expected two"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "expected one of siglip_vision_model"),
        ({"vision_image_mean": None}, "expected both or none"),
        ({"frame_per_chunk": 4}, "did you mean `frames_per_chunk`"),
    ],
)
def test_bad_configurations_are_refused(vlm_config, change, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        TrajVLMConfig(**{**vlm_config.to_dict(), **change})
