"""TrajVLM generates as the library's own models do, in every mode of generation and with every kind of cache."""

import copy

import pytest
import torch
from transformers import DynamicCache, Qwen3ForCausalLM, StaticCache

from modeling_trajtok import TrajVLMForConditionalGeneration
from modeling_trajtok.modeling_trajvlm import CACHE

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
K, NEW = 6, 5
LENGTH = 2 * K + 6  # of a prompt


def build(config) -> TrajVLMForConditionalGeneration:
    torch.manual_seed(0)
    model = TrajVLMForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture
def config(vlm_config):
    return vlm_config


@pytest.fixture
def model(config) -> TrajVLMForConditionalGeneration:
    return build(config)


def prompts(config) -> dict[str, torch.Tensor]:
    """Two prompts about an image and a video each; the second is shorter, and padded on the left."""
    words = torch.randint(9, 30, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    words[:, 4 : 4 + K], words[:, 5 + K : 5 + 2 * K] = config.image_token_id, config.video_token_id
    mask = torch.ones_like(words)
    words[1, :3], mask[1, :3] = config.text_config.pad_token_id, 0
    generator = torch.Generator().manual_seed(2)
    return {
        "input_ids": words,
        "attention_mask": mask,
        "pixel_values": torch.randn(2, 3, 48, 48, generator=generator),
        "pixel_values_videos": torch.randn(2, 3, 3, 48, 48, generator=generator),
    }


@pytest.fixture
def inputs(config) -> dict[str, torch.Tensor]:
    return prompts(config)


def first(inputs: dict) -> dict:
    """The first prompt alone."""
    return {name: value[:1] for name, value in inputs.items()}


def generate(model, inputs, **settings):
    return model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False} | settings)


def greedy(model, inputs) -> torch.Tensor:
    """The next words, each predicted from the whole prompt anew: no cache, and nothing of `generate`."""
    for _ in range(NEW):
        with torch.no_grad():
            word = model(**inputs, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        inputs = {
            **inputs,
            "input_ids": torch.cat((inputs["input_ids"], word), 1),
            "attention_mask": torch.cat((inputs["attention_mask"], torch.ones_like(word)), 1),
        }
    return inputs["input_ids"]


@pytest.mark.parametrize("name", ["vlm_config", "trajvit2_config"])
def test_all_greedy_ways_give_the_same_words(name, request):
    config = request.getfixturevalue(name)
    model, inputs = build(config), first(prompts(config))
    expected = greedy(model, inputs)
    assert len(expected[0, LENGTH:].unique()) > 1
    helper = copy.deepcopy(config)
    helper.text_config.num_hidden_layers, helper.text_config.layer_types = 1, ["full_attention"]
    for settings in (
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
        {"assistant_model": build(helper)},
    ):
        assert torch.equal(generate(model, inputs, **settings), expected), settings


def test_padding_on_the_left_changes_no_word(model, inputs):
    together = generate(model, inputs)
    shorter = {name: value[1:] for name, value in inputs.items()}
    shorter = {**shorter, **{name: shorter[name][:, 3:] for name in ("input_ids", "attention_mask")}}
    assert torch.equal(together[1, LENGTH:], generate(model, shorter)[0, LENGTH - 3 :])
    assert torch.equal(together[:1], generate(model, first(inputs)))
    with torch.no_grad():
        logits = model(**inputs).logits[1, 3:]
        torch.testing.assert_close(model(**shorter).logits[0], logits, **CLOSE)


def test_beams_and_samples(model, inputs):
    beams = generate(
        model, inputs, num_beams=3, num_return_sequences=2, return_dict_in_generate=True, output_scores=True
    )
    assert beams.sequences.shape == (4, LENGTH + NEW) and beams.sequences_scores.shape == (4,)
    assert not torch.equal(beams.sequences[0], beams.sequences[1])
    # The score is the mean log-likelihood of the words, looked at again in one pass.
    alone = {**first(inputs), "input_ids": beams.sequences[:1], "attention_mask": torch.ones(1, LENGTH + NEW)}
    with torch.no_grad():
        logits = model(**alone).logits[0, LENGTH - 1 : -1].log_softmax(-1)
    total = logits.gather(1, beams.sequences[:1, LENGTH:].T).sum()
    torch.testing.assert_close(total / NEW, beams.sequences_scores[0], **CLOSE)
    torch.manual_seed(0)
    samples = generate(model, inputs, do_sample=True, num_return_sequences=3, top_k=0)
    assert samples.shape == (6, LENGTH + NEW) and len({tuple(row.tolist()) for row in samples[:3]}) > 1
    assert torch.equal(samples[:3, :LENGTH], inputs["input_ids"][:1].expand(3, -1))
    torch.manual_seed(0)
    assert torch.equal(generate(model, inputs, do_sample=True, num_return_sequences=3, top_k=0), samples)
    assert generate(model, inputs, do_sample=True, num_beams=2).shape == (2, LENGTH + NEW)


def test_everything_is_told_on_request(model, config, inputs):
    model.set_attn_implementation("eager")
    told = generate(
        model,
        inputs,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
        output_attentions=True,
    )
    text = config.text_config
    assert len(told.scores) == len(told.logits) == len(told.hidden_states) == len(told.attentions) == NEW
    assert told.logits[0].shape == (2, text.vocab_size)
    for step, (states, attentions) in enumerate(zip(told.hidden_states, told.attentions, strict=True)):
        new = LENGTH if step == 0 else 1
        assert [tuple(state.shape) for state in states] == [(2, new, 32)] * (text.num_hidden_layers + 1)
        shape = (2, text.num_attention_heads, new, LENGTH + step)
        assert [tuple(weights.shape) for weights in attentions] == [shape] * text.num_hidden_layers
    cache = told[CACHE]
    assert cache.get_seq_length() == LENGTH + NEW - 1
    assert cache.layers[0].keys.shape == (2, text.num_key_value_heads, LENGTH + NEW - 1, text.head_dim)
    assert torch.equal(told.sequences, generate(model, inputs))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_given_cache_is_gone_on_with(model, config, inputs, kind):
    alone = first(inputs)
    expected = generate(model, alone)
    caches = {
        "dynamic": lambda: DynamicCache(config=config.text_config),
        "static": lambda: StaticCache(config=config.text_config, max_cache_len=64),
    }
    cache = caches[kind]()
    half = generate(model, alone, max_new_tokens=2, **{CACHE: cache})
    assert torch.equal(half, expected[:, : LENGTH + 2]) and cache.get_seq_length() == LENGTH + 1
    # The words so far, without pixels: they are in the cache.
    rest = {"input_ids": half, "attention_mask": torch.ones_like(half), CACHE: cache}
    assert torch.equal(generate(model, rest, max_new_tokens=NEW - 2), expected)


def test_embeddings_may_be_given(model, inputs):
    alone = first(inputs)
    expected = generate(model, alone)[:, LENGTH:]
    embeds = model.get_input_embeddings()(alone["input_ids"])
    rest = {name: value for name, value in alone.items() if name != "input_ids"}
    assert torch.equal(generate(model, {**rest, "inputs_embeds": embeds}), expected)
    assert torch.equal(generate(model, {**alone, "inputs_embeds": embeds})[:, LENGTH:], expected)
    beams = generate(model, alone, num_beams=2)[:, LENGTH:]
    assert torch.equal(generate(model, {**rest, "inputs_embeds": embeds}, num_beams=2), beams)


def test_features_given_to_generate_stay_as_they_are(model, inputs):
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoded = {
        "image": model.get_image_features(inputs["pixel_values"]),
        "video": model.get_video_features(inputs["pixel_values_videos"]),
    }
    before = [len(features.pooler_output) for features in encoded.values()]
    expected = generate(model, inputs, num_beams=3)
    for _ in range(2):
        found = generate(model, {**words, "mm_encoder_outputs": encoded}, num_beams=3)
        assert torch.equal(found, expected)
        assert [len(features.pooler_output) for features in encoded.values()] == before


def test_one_compiled_graph_makes_every_next_word(model, config, inputs):
    alone = first(inputs)
    expected = generate(model, alone)
    cache = StaticCache(config=config.text_config, max_cache_len=LENGTH + NEW)
    with torch.no_grad():
        word = model(**alone, **{CACHE: cache}).logits[:, -1:].argmax(-1)
        graphs = []

        def backend(graph, example_inputs):
            graphs.append(graph)
            return graph.forward

        step = torch.compile(model.forward, fullgraph=True, backend=backend, dynamic=False)
        found = [word]
        for place in range(LENGTH, LENGTH + NEW - 1):
            position = torch.full((1, 1), place)
            logits = step(input_ids=found[-1], position_ids=position, use_cache=True, **{CACHE: cache}).logits
            found.append(logits[:, -1:].argmax(-1))
    assert torch.equal(torch.cat(found, 1), expected[:, LENGTH:]) and len(graphs) == 1


def test_the_language_model_alone_says_the_same(model, inputs):
    """Without pictures a TrajVLM is its language model."""
    text = Qwen3ForCausalLM(model.config.text_config).eval()
    text.generation_config.eos_token_id = None
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.tie_weights()
    words = {"input_ids": inputs["input_ids"][:, :4], "attention_mask": inputs["attention_mask"][:, :4]}
    assert torch.equal(generate(model, words, num_beams=2), generate(text, words, num_beams=2))
