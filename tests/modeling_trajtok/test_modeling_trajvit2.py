"""TrajViT2: videos and texts meet, whatever batch they come in, and losses compare all that should be compared."""

import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForVideoClassification, BertTokenizer, Trainer, TrainingArguments

from modeling_trajtok import (
    TrajTokConfig,
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajViT2Config,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2Processor,
    TrajViT2VideoModel,
)
from modeling_trajtok.encoder_trajtok import TrajTokOutlineEmbedding, TrajTokTrackEmbedding
from modeling_trajtok.grid_ops import GridSize
from modeling_trajtok.losses_trajvit2 import contrastive_loss

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def config_of(tiny_config, **changes) -> TrajViT2Config:
    trajtok = tiny_config.to_dict() | {"encoder_output_size": 32} | changes.pop("trajtok", {})
    text = {
        "model_type": "bert",
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 28,
        "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
    }
    transformer = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 36,
        "initializer_range": 0.2,
    } | changes.pop("transformer", {})
    text |= changes.pop("text", {})
    return TrajViT2Config(
        trajtok_config=trajtok,
        transformer_config=transformer,
        text_config=text,
        projection_dim=20,
        initializer_range=0.2,
        **changes,
    )


def build(config: TrajViT2Config, model_class=TrajViT2Model):
    torch.manual_seed(0)
    return model_class(config).eval()


@pytest.fixture
def model(tiny_config) -> TrajViT2Model:
    return build(
        config_of(
            tiny_config,
            trajtok={"encoder_queries": "latents_and_mean", "track_embedding": True, "outline_embedding": True},
        )
    )


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(3, 4, 3, 40, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def texts() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 40, (5, 7), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def test_every_video_meets_every_text(model, clips, texts):
    with torch.no_grad():
        outputs = model(clips, **texts)
        videos = model.get_video_features(clips).pooler_output
        words = model.get_text_features(**texts).pooler_output
    assert outputs.logits_per_video.shape == (3, 5) and outputs.loss is None
    assert torch.equal(outputs.logits_per_text, outputs.logits_per_video.t())
    torch.testing.assert_close(outputs.logits_per_video, videos @ words.t() / 0.07, **CLOSE)
    torch.testing.assert_close(videos.norm(dim=1), torch.ones(3), **CLOSE)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(5), **CLOSE)
    assert outputs.logits_per_video.std() > 0.1  # not all the same


@pytest.mark.parametrize(("num_videos", "num_texts"), [(1, 5), (3, 1)])
def test_one_against_many(model, clips, texts, num_videos, num_texts):
    some = {name: value[:num_texts] for name, value in texts.items()}
    with torch.no_grad():
        whole = model(clips, **texts).logits_per_video
        part = model(clips[:num_videos], **some).logits_per_video
    torch.testing.assert_close(part, whole[:num_videos, :num_texts], **CLOSE)


def test_an_image_is_a_clip_of_one_frame(model, clips):
    with torch.no_grad():
        alone = [model.get_video_features(clip[None, :1]).pooler_output for clip in clips]
        together = model.get_video_features(clips[:, :1]).pooler_output
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)


@pytest.mark.parametrize("tracks", [True, False])
def test_a_padded_clip_is_the_clip_alone(tiny_config, clips, tracks):
    model = build(config_of(tiny_config, trajtok={"track_embedding": tracks, "outline_embedding": tracks}))
    frame_valid = torch.tensor([[True] * 4, [True, True, False, False], [True] * 3 + [False]])
    with torch.no_grad():
        padded = model.get_video_features(clips, frame_valid, output_trajectory_features=True)
        for row, length in enumerate([4, 2, 3]):
            alone = model.get_video_features(clips[row : row + 1, :length], output_trajectory_features=True)
            torch.testing.assert_close(padded.pooler_output[row], alone.pooler_output[0], **CLOSE)
            torch.testing.assert_close(padded.trajectory_features[row], alone.trajectory_features[0], **CLOSE)


def test_empty_trajectories_are_not_read(model, clips):
    with torch.no_grad():
        made = model.video_model.trajtok(clips)
        expected = model.get_video_features(clips)
        assert not made.token_valid.all()
        noise = made.trajectory_embeds + 9.0 * ~made.token_valid.unsqueeze(2)
        again = model.get_video_features(trajectory_embeds=noise, token_valid=made.token_valid)
        unmasked = model.get_video_features(trajectory_embeds=noise)
    torch.testing.assert_close(again.pooler_output, expected.pooler_output, **CLOSE)
    assert (unmasked.pooler_output - expected.pooler_output).abs().max() > 1e-3


def test_tracks_tell_how_a_thing_moves(tiny_config):
    """The same square shown in the same frames in the other order: only its path differs."""
    clip = torch.zeros(1, 4, 3, 32, 64)
    for frame in range(4):
        clip[:, frame, :, 8:24, 16 * frame : 16 * frame + 16] = 2.0
    ids = (clip[:, :, 0] > 1).long()

    def tokens_of(model, video, masks):
        with torch.no_grad():
            return model(patch_features=video, patch_grid=(4, 8, 16), trajectory_ids=masks).trajectory_embeds

    features = torch.ones(1, 4 * 8 * 16, 48)  # that do not tell one patch from another
    for tracks in (True, False):
        torch.manual_seed(0)
        config = tiny_config.to_dict() | {"track_embedding": tracks, "encoder_positions": "grid"}
        model = TrajTokModel(TrajTokConfig(**config)).eval()
        there, back = tokens_of(model, features, ids), tokens_of(model, features, ids.flip(1))
        assert torch.allclose(there, back, atol=1e-5) is not tracks


def test_outlines_by_hand():
    """Trajectory 0 is a square, then a bar elsewhere; 2 is its missing corner; 1 is the ground of the first frame."""
    ids = torch.ones(1, 2, 6, 6, dtype=torch.long)
    ids[0, 0, 1:4, 1:4] = 0
    ids[0, 0, 1, 1] = 2
    ids[0, 1] = -1
    ids[0, 1, 3:5, 2:5] = 0
    outlines = TrajTokOutlineEmbedding(8).outlines(ids.view(1, -1), 4, GridSize(2, 6, 6))[0]
    expected = torch.ones(8, 8)
    expected[:3, :3] = 0.5
    assert torch.equal(outlines[0], expected)
    ground = torch.ones(8, 8)
    ground[1:5, 1:5] = 0
    ground[0, 0] = 1
    assert torch.equal(outlines[1], ground)
    assert outlines[2].all() and not outlines[3].any()


def test_outlines_tell_what_a_thing_looks_like(tiny_config):
    """Two silhouettes of the same place and size: only the outline differs."""
    upright, diagonal = torch.ones(2, 1, 1, 9, 9, dtype=torch.long)
    upright[0, 0, 3:6, 4] = upright[0, 0, 4, 3:6] = 0
    diagonal[0, 0, 3:6, 3:6] = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    features = torch.ones(1, 81, 48)
    for outlines in (True, False):
        torch.manual_seed(0)
        model = TrajTokModel(TrajTokConfig(**tiny_config.to_dict() | {"outline_embedding": outlines})).eval()
        with torch.no_grad():
            tokens = [
                model(patch_features=features, patch_grid=(1, 9, 9), trajectory_ids=ids).trajectory_embeds[:, :2]
                for ids in (upright, diagonal)
            ]
        assert torch.allclose(*tokens, atol=1e-5) is not outlines


def test_tracks_by_hand():
    """One trajectory, a column that moves right and grows, on a grid of 2 rows and 4 columns."""
    ids = torch.tensor([[[0, -1, -1, -1], [0, -1, -1, -1]], [[-1, -1, 0, 0], [-1, -1, 0, 0]]]).view(1, -1)
    tracks = TrajTokTrackEmbedding(8).tracks(ids, 2, GridSize(2, 2, 4))
    assert tracks.shape == (1, 2, 2, 7)
    first, second = tracks[0, :, 0]
    # presence, row, column, root of the area, spreads over the area
    assert first.tolist() == pytest.approx([1, 0, -0.75, 0.5, 0.25 / 0.25, 0, 0])
    assert second.tolist() == pytest.approx([1, 0, 0.5, 0.5**0.5, 0.25 / 0.5, 0.0625 / 0.5, 0])
    assert not tracks[0, :, 1].any()


def test_attention_implementations_agree(model, clips, texts):
    with torch.no_grad():
        expected = model(clips, **texts).logits_per_video
        for attention in ("eager", "flex_attention"):
            model.set_attn_implementation(attention)
            for config in (
                model.video_model.transformer.layers[0].self_attn.config,
                model.video_model.trajtok.segmenter.perceiver.layers[0].attention.config,
                model.text_model.encoder.config,
            ):
                assert config._attn_implementation == attention
            torch.testing.assert_close(model(clips, **texts).logits_per_video, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(model, clips, texts, reentrant):
    def gradients():
        model.zero_grad()
        model(clips, **texts, return_loss=True).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.video_model.transformer.layers)
    found = gradients()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_layers_are_recorded(model, clips, texts):
    with torch.no_grad():
        videos = model.get_video_features(clips, output_hidden_states=True)
        states = videos.hidden_states
        assert len(states) == 3 and {tuple(state.shape) for state in states} == {(3, 1 + 12, 32)}
        transformer = model.video_model.transformer
        torch.testing.assert_close(transformer.norm(states[-1]), videos.last_hidden_state)
        assert videos.attentions is None
        model.set_attn_implementation("eager")
        outputs = model(clips, **texts, output_hidden_states=True, output_attentions=True)
        for part, length in ((outputs.video_model_output, 13), (outputs.text_model_output, 7)):
            assert len(part.hidden_states) == 3 and len(part.attentions) == 2
            assert part.attentions[-1].shape[-2:] == (length, length)
        model.config.output_hidden_states = True
        assert len(model.get_video_features(clips).hidden_states) == 3
        assert isinstance(model.get_video_features(clips, return_dict=False), tuple)
        assert isinstance(model.get_text_features(**texts, return_dict=False), tuple)


def test_a_vocabulary_grows(model, texts, tmp_path):
    with torch.no_grad():
        expected = model.get_text_features(**texts).pooler_output
    assert model.get_input_embeddings() is model.text_model.encoder.get_input_embeddings()
    model.resize_token_embeddings(47)
    assert model.config.text_config.vocab_size == model.text_model.encoder.config.vocab_size == 47
    model.save_pretrained(tmp_path)
    again = TrajViT2Model.from_pretrained(tmp_path).eval()
    assert again.get_input_embeddings().weight.shape == (47, 24)
    with torch.no_grad():
        torch.testing.assert_close(again.get_text_features(**texts).pooler_output, expected)
        again.get_text_features(torch.full((1, 3), 46))


def test_the_scale_of_the_assignment_stays_in_single_precision(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = {"dtype": torch.bfloat16}
    for made in (
        *(part.from_pretrained(tmp_path, **half) for part in (TrajViT2Model, TrajViT2VideoModel)),
        AutoModel.from_config(model.config, **half),
    ):
        scale = made.video_model.trajtok.segmenter.assignment.log_scale
        assert scale.dtype == torch.float32 and made.dtype == torch.bfloat16


@pytest.mark.parametrize("pooling", ["cls", "last", "mean", "pooler"])
def test_texts_are_pooled_without_their_padding(tiny_config, texts, pooling):
    model = build(config_of(tiny_config, text_pooling=pooling))
    with torch.no_grad():
        together = model.get_text_features(**texts).pooler_output
        alone = model.get_text_features(texts["input_ids"][1:2, :4]).pooler_output
    torch.testing.assert_close(together[1], alone[0], **CLOSE)


@pytest.mark.parametrize(
    "text",
    [
        {"model_type": "clip_text_model", "hidden_size": 24, "max_position_embeddings": 12},
        {"model_type": "t5", "d_model": 24, "d_kv": 12, "d_ff": 28, "num_layers": 2, "num_heads": 2},
        {"model_type": "modernbert", "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1,
         "eos_token_id": 2},
    ],
    ids=lambda text: text["model_type"],
)  # fmt: skip
def test_any_text_encoder(tiny_config, clips, texts, text):
    model = build(config_of(tiny_config, text=text, text_pooling="mean"))
    model(clips, **texts, return_loss=True).loss.backward()
    unused = [name for name, parameter in model.text_model.named_parameters() if parameter.grad is None]
    assert not unused


# --- losses ----------------------------------------------------------------------------------------------------------


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_contrastive_loss_is_the_mean_of_two_cross_entropies():
    videos, texts, temperature = unit(3, 8), unit(3, 8, seed=1), torch.tensor(0.2)
    logits = videos @ texts.t() / temperature
    target = torch.arange(3)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    torch.testing.assert_close(contrastive_loss(videos, texts, temperature), expected)


def test_videos_of_one_number_share_their_texts():
    """By hand, with videos equal to texts: two of three show the same."""
    axes = torch.eye(2)
    videos = axes[[0, 0, 1]]
    loss = contrastive_loss(videos, videos, torch.tensor(1.0), video_idx=torch.tensor([7, 7, 3]))
    pair = -math.log(math.e / (2 * math.e + 1))
    single = -math.log(math.e / (math.e + 2))
    torch.testing.assert_close(loss, torch.tensor((2 * pair + single) / 3))


def test_texts_without_a_video_only_push_away():
    videos, texts, temperature = unit(2, 8), unit(5, 8, seed=1), torch.tensor(0.5)
    logits, target = videos @ texts.t() / temperature, torch.arange(2)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t()[:2], target)) / 2
    torch.testing.assert_close(contrastive_loss(videos, texts, temperature), expected)
    given = contrastive_loss(
        videos, texts, temperature, video_idx=torch.tensor([4, 9]), text_idx=torch.tensor([4, 9, -1, -1, -1])
    )
    torch.testing.assert_close(given, expected)


def test_masks_add_the_segmentation_loss(model, clips, texts):
    labels = torch.randint(-1, 5, (3, 4, 40, 64), generator=torch.Generator().manual_seed(3))
    without = model(clips, **texts, return_loss=True)
    model.config.segmentation_loss_weight = 0.25
    both = model(clips, **texts, return_loss=True, trajectory_labels=labels)
    assert without.segmentation_loss is None and torch.equal(without.loss, without.contrastive_loss)
    torch.testing.assert_close(both.contrastive_loss, without.contrastive_loss)
    torch.testing.assert_close(both.loss, both.contrastive_loss + 0.25 * both.segmentation_loss)
    torch.testing.assert_close(both.segmentation_loss, model.video_model.trajtok(clips, trajectory_labels=labels).loss)


def test_the_task_trains_the_segmenter_unless_it_is_told_not_to(tiny_config, clips, texts):
    trained = {"encoder_queries": "latents_and_mean", "detach_patch_features": False, "high_res_factor": None}

    def reached(**changes) -> dict[str, bool]:
        model = build(config_of(tiny_config, trajtok=trained | changes))
        model(clips, **texts, return_loss=True).loss.backward()
        segmenter = model.video_model.trajtok.segmenter
        return {
            name: parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
            for name, parameter in segmenter.named_parameters()
        }

    through, cut = reached(), reached(detach_segmentation=True)
    assert all(through.values()), [name for name, there in through.items() if not there]
    assert not any(cut.values())


def test_the_temperature_stays_within_its_bounds(model, clips, texts):
    model.train()
    model.config.min_temperature = 0.05  # lower, and float32 softmaxes of random texts have no gradient left
    for value, bound in ((3.0, 0.5), (-1.0, 0.05)):
        with torch.no_grad():
            model.temperature.fill_(value)
        model(clips, **texts, return_loss=True).loss.backward()
        assert model.temperature.item() == pytest.approx(bound)
        assert model.temperature.grad.abs() > 0  # by which it can leave its bound
        model.zero_grad()
    model.eval()
    with torch.no_grad():
        model.temperature.fill_(3.0)
        logits = model(clips, **texts).logits_per_video
    assert logits.abs().max() <= 2.0 + 1e-4 and model.temperature.item() == 3.0


TWO_PROCESSES = """
    import sys, torch, torch.distributed as dist
    from modeling_trajtok import TrajViT2Model

    folder, rank = sys.argv[1], int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    inputs = torch.load(f"{folder}/inputs.pt")
    model = TrajViT2Model.from_pretrained(folder).train()
    # Without masks, nothing trains the heads that the segmentation loss is for.
    model = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    rows = slice(4 * rank, 4 * rank + 4)
    loss = model(**{name: value[rows] for name, value in inputs.items()}, return_loss=True).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    torch.save({"loss": loss.detach(), "gradients": gradients}, f"{folder}/found-{rank}.pt")
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("numbered", [False, True])
def test_two_processes_of_four_are_one_of_eight(tiny_config, tmp_path, numbered):
    model = build(config_of(tiny_config)).train()
    model.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "pixel_values_videos": torch.randn(8, 2, 3, 32, 32, generator=generator),
        "input_ids": torch.randint(1, 40, (8, 6), generator=generator),
    }
    if numbered:
        inputs["idx"] = torch.tensor([0, 1, 2, 3, 2, 5, 6, 0])  # pairs that meet across the processes
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]

    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    found = [torch.load(tmp_path / f"found-{rank}.pt") for rank in range(2)]
    torch.testing.assert_close((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach(), **CLOSE)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                found[0]["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )


# --- towers, folders, training ---------------------------------------------------------------------------------------


def test_each_part_reads_its_weights_from_a_full_checkpoint(model, clips, tmp_path, recwarn):
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.get_video_features(clips)
        tower = TrajViT2VideoModel.from_pretrained(tmp_path)(clips)
        torch.testing.assert_close(tower.last_hidden_state, expected.last_hidden_state, **CLOSE)
        torch.testing.assert_close(tower.pooler_output, expected.last_hidden_state[:, 0], **CLOSE)
        again = AutoModel.from_pretrained(tmp_path)
        assert type(again) is TrajViT2Model
        torch.testing.assert_close(again.get_video_features(clips).pooler_output, expected.pooler_output, **CLOSE)
        loading = {"num_labels": 3, "output_loading_info": True}
        classifier, info = AutoModelForVideoClassification.from_pretrained(tmp_path, **loading)
    assert type(classifier) is TrajViT2ForVideoClassification
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    assert classifier(clips).logits.shape == (3, 3)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 2, 1])),
        ("multi_label_classification", torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
    ],
)
def test_classification_losses(tiny_config, clips, problem_type, labels):
    model = build(config_of(tiny_config, num_labels=3, problem_type=problem_type), TrajViT2ForVideoClassification)
    outputs = model(clips, labels=labels)
    loss = F.cross_entropy if problem_type.startswith("single") else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))


def training_arguments(folder, **changes) -> TrainingArguments:
    settings = {
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return TrainingArguments(output_dir=str(folder), **(settings | changes))


def weights_after_one_step(model, rows, folder, batch: int, accumulation: int) -> dict[str, torch.Tensor]:
    """One step of plain SGD over as many rows, some at a time; fails if nothing is learnt."""
    arguments = training_arguments(
        folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1
    )
    before = {name: value.clone() for name, value in model.named_parameters()}
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    after = {name: value.detach() for name, value in model.named_parameters()}
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    return after


@pytest.mark.parametrize("masks", [False, True])
def test_trainer_accumulates_to_the_gradients_of_one_batch(tiny_config, clips, tmp_path, masks):
    """Losses of classes and of masks are means over clips, at once or one by one."""
    labels = torch.randint(-1, 5, (3, 4, 10, 16), generator=torch.Generator().manual_seed(3))
    rows = [{"pixel_values_videos": clips[index % 3], "labels": index % 2} for index in range(4)]
    if masks:
        rows = [{**row, "target_trajectory_ids": labels[index % 3]} for index, row in enumerate(rows)]
    ends = []
    for batch, accumulation in ((4, 1), (1, 4)):
        model = build(config_of(tiny_config, num_labels=2), TrajViT2ForVideoClassification)
        ends.append(weights_after_one_step(model, rows, tmp_path, batch, accumulation))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_accumulated_batches_have_fewer_texts_to_confuse_a_video_with(model, clips, texts, tmp_path):
    """So their contrastive loss is another one than that of one batch; alone, a pair has nothing to learn from."""
    rows = [{"pixel_values_videos": clips[row % 3], "input_ids": texts["input_ids"][row]} for row in range(4)]

    def collate(batch):
        return {**torch.utils.data.default_collate(batch), "return_loss": True}

    losses = {}
    for batch in (4, 2, 1):
        arguments = training_arguments(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=4 // batch,
            max_steps=1,
            logging_steps=1,
            learning_rate=0.0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        trainer.train()
        losses[batch] = trainer.state.log_history[0]["loss"]
    assert losses[4] > losses[2] + 0.1 > 0.1
    assert losses[1] == 0


@pytest.mark.parametrize("masks", [False, True])
def test_trainer_finds_the_labels_and_evaluates(tiny_config, clips, tmp_path, masks):
    """Masks are optional: with them the loss of evaluation is that of both, without them that of the classes."""
    model = build(config_of(tiny_config, num_labels=2), TrajViT2ForVideoClassification)
    labels, inputs = torch.tensor([0, 1, 0]), {"pixel_values_videos": clips}
    if masks:
        inputs["target_trajectory_ids"] = torch.randint(-1, 5, (3, 4, 10, 16))
    rows = [{**{name: value[row] for name, value in inputs.items()}, "labels": int(labels[row])} for row in range(3)]
    arguments = training_arguments(tmp_path, per_device_eval_batch_size=3)
    trainer = Trainer(
        model=model,
        args=arguments,
        eval_dataset=rows,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    found = trainer.evaluate()
    with torch.no_grad():
        output = model(**inputs, labels=labels)
        again = model(clips, labels=labels, trajectory_labels=inputs.get("target_trajectory_ids"))
        assert torch.equal(model(pixel_values=clips).logits, output.logits)
    assert found["eval_loss"] == pytest.approx(float(output.loss), abs=1e-5)
    assert found["eval_accuracy"] == pytest.approx(float((output.logits.argmax(-1) == labels).float().mean()))
    assert again.loss == output.loss
    assert masks == (output.loss > F.cross_entropy(output.logits, labels) + 0.01)
    with pytest.raises(ValueError, match="two names of the same"):
        model(clips, target_trajectory_ids=labels, trajectory_labels=labels)
    with pytest.raises(ValueError, match="did you mean `labels`"):
        model(clips, lables=labels)


class PairCollator:
    """Rows of a video and a text -> what the model is called with; without ``return_loss`` there is no loss."""

    def __init__(self):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "star", "ring", "falls"]
        tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=12)
        self.processor = TrajViT2Processor(TrajTokVideoProcessor(size={"height": 32, "width": 40}), tokenizer)

    def __call__(self, rows: list[dict]) -> dict:
        videos, texts = ([row[name] for row in rows] for name in ("video", "text"))
        return {**self.processor(videos=videos, text=texts, return_tensors="pt"), "return_loss": True}


def test_trainer_learns_pairs_of_videos_and_texts_and_goes_on_from_a_checkpoint(tiny_config, tmp_path):
    generator = np.random.default_rng(4)
    texts = ["a red star", "a blue star falls", "a ring", "a blue ring", "a red ring falls", "star"]
    rows = [
        {"video": generator.integers(0, 256, (2 + number % 3, 40, 48, 3), dtype=np.uint8), "text": text}
        for number, text in enumerate(texts)
    ]

    def trainer_of(folder, model, **changes) -> Trainer:
        arguments = training_arguments(
            folder,
            per_device_train_batch_size=3,
            per_device_eval_batch_size=3,
            max_steps=2,
            logging_steps=1,
            save_strategy="steps",
            save_steps=1,
            optim="adamw_torch",
            learning_rate=1e-3,
            remove_unused_columns=False,  # video and text are not the model's words, but the collator's
            **changes,
        )
        return Trainer(
            model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=PairCollator()
        )

    def losses_of(trainer) -> dict[int, float]:
        return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}

    whole = trainer_of(tmp_path / "whole", build(config_of(tiny_config)))
    with torch.no_grad():
        by_hand = [whole.model(**whole.data_collator(some)).loss for some in (rows[:3], rows[3:])]
    assert whole.evaluate()["eval_loss"] == pytest.approx(float(sum(by_hand) / 2), abs=1e-5)
    whole.train()
    again = trainer_of(tmp_path / "again", build(config_of(tiny_config)))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert losses_of(again) == losses_of(whole) and list(losses_of(whole)) == [1, 2]
    assert all(loss > 0.1 for loss in losses_of(whole).values())
    saved = TrajViT2Model.from_pretrained(tmp_path / "again" / "checkpoint-2").state_dict()
    before = build(config_of(tiny_config)).state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(saved[name], value), name
    changed = {name for name, value in saved.items() if not torch.equal(value, before[name])}
    assert {"temperature", "video_projection.weight", "text_projection.weight"} <= changed
    assert any("trajtok.encoder" in name for name in changed) and any("text_model" in name for name in changed)


def test_tokens_made_before_give_the_same_embeddings(model, clips):
    frame_valid = torch.tensor([[True] * 4, [True, True, False, False], [True] * 3 + [False]])
    with torch.no_grad():
        tokens = model.video_model.trajtok(clips, frame_valid=frame_valid)
        expected = model.get_video_features(clips, frame_valid).pooler_output
        found = model.get_video_features(trajectory_embeds=tokens.trajectory_embeds, token_valid=tokens.token_valid)
    torch.testing.assert_close(found.pooler_output, expected, **CLOSE)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "get_video_features"),
        ({"input_ids": torch.ones(2, 7, dtype=torch.long)}, "3 videos and 2 texts"),
        ({"input_ids": torch.ones(3, 13, dtype=torch.long)}, "at most 12"),
        ({"idx": torch.arange(4)}, r"idx of shape \(4,\), expected \(3,\)"),
        ({"text_idx": torch.arange(3)}, "text_idx without idx"),
        ({"trajectory_embeds": torch.zeros(3, 6, 32)}, "one of them"),
        ({"pixel_values_videos": None, "trajectory_embeds": torch.zeros(3, 6, 31)}, r"\(B, K\*L, 32\)"),
        (
            {"pixel_values_videos": None, "trajectory_embeds": torch.zeros(3, 6, 32), "token_valid": torch.ones(3, 5)},
            "token_valid of shape",
        ),
        ({"trajectory_label": torch.zeros(3, 4, 8, 8)}, "trajectory_labels"),
    ],
)
def test_bad_input_is_refused(model, clips, changes, message):
    inputs = {"pixel_values_videos": clips, "input_ids": torch.ones(3, 7, dtype=torch.long)} | changes
    with pytest.raises(ValueError, match=message):
        model(**inputs, return_loss=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projction_dim": 3}, "did you mean `projection_dim`"),
        ({"transformer_config": {"hiden_size": 3}}, "did you mean `hidden_size`"),
        ({"trajtok_config": {"num_trajectorys": 3}}, "did you mean `num_trajectories`"),
        ({"transformer_config": {"hidden_size": 64}}, "tokens of width 512"),
        ({"transformer_config": {"num_attention_heads": 7}}, "expected a multiple"),
        ({"initial_temperature": 0.9}, "min <= initial <= max"),
        ({"projection_dim": 0}, "at least 1"),
    ],
)
def test_a_bad_configuration_is_refused(changes, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        TrajViT2Config(**changes)


def test_a_checkpoint_of_another_model_is_refused(tiny_config, tmp_path):
    TrajTokModel(tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected `trajvit2`"):
        TrajViT2Model.from_pretrained(tmp_path)


def test_the_defaults_are_the_released_sizes():
    config = TrajViT2Config()
    assert (config.transformer_config.num_hidden_layers, config.transformer_config.num_attention_heads) == (24, 16)
    assert (config.text_config.model_type, config.text_config.num_hidden_layers) == ("bert", 9)
    assert (config.trajtok_config.hidden_size, config.projection_dim) == (512, 256)


# --- export ----------------------------------------------------------------------------------------------------------


class VideoFeatures(torch.nn.Module):
    """What an index of clips is made with."""

    def __init__(self, model: TrajViT2Model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model.get_video_features(**inputs).pooler_output


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="PyTorch 2.11 writes ONNX that no runtime reads")
def test_onnx_and_the_exported_model_take_any_number_of_clips_and_frames(tiny_config):
    if not os.environ.get("CI"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    import onnxruntime

    torch.manual_seed(0)
    small = TrajTokConfig(**(tiny_config.to_dict() | {"num_query_layers": 1, "high_res_factor": None}))
    config = config_of(small, num_labels=3)
    axes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames", min=2)}
    inputs, longer = (
        {"pixel_values_videos": torch.randn(len(lengths), frames, 3, 40, 72),
         "frame_valid": torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)}
        for frames, lengths in ((4, (4, 2)), (6, (6, 3, 1)))
    )  # fmt: skip
    shapes = dict.fromkeys(inputs, axes)
    classifier = build(config, TrajViT2ForVideoClassification).eval()
    features = VideoFeatures(build(config)).eval()
    with torch.no_grad():
        exported = torch.export.export(classifier, (), inputs, dynamic_shapes=shapes).module()
        program = torch.onnx.export(features, (), kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        for given in (inputs, longer):
            torch.testing.assert_close(exported(**given).logits, classifier(**given).logits, atol=1e-4, rtol=1e-4)
            ran = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
            torch.testing.assert_close(torch.from_numpy(ran), features(**given), atol=1e-4, rtol=1e-4)
