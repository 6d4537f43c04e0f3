"""Convert the original's checkpoints into Transformers folders, and back.

    python -m modeling_trajtok.convert_official_checkpoint INPUT OUTPUT_DIR

In:   a ``.pth`` file (``{"model": state dict, ...}`` or a bare state dict) or a ``.safetensors`` file of the original
Out:  a folder for ``from_pretrained``; or, with ``--reverse``, a ``.safetensors`` file for the original's code

The conversion is a table that must balance: every key of the file is used once or ignored for a stated reason, every
parameter of ours is filled, and all shapes agree. Sizes are inferred from the shapes; what leaves no trace in them is
an option: ``--encoder-queries latents_and_mean`` (the original's ``add_mean_traj``), ``--feature-fusion``, and for
TrajViT2 the numbers of heads and the tokenizer.
"""

import argparse
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .configuration_trajtok import TrajTokConfig
from .configuration_trajvit2 import TrajViT2Config
from .configuration_trajvlm import TrajVLMConfig
from .modeling_trajtok import TrajTokModel
from .modeling_trajvit2 import TrajViT2Model
from .modeling_trajvlm import TrajVLMGrouping
from .official_layouts import (
    LAYOUTS,
    SEGMENTER_LAYOUT,
    TOKENIZER_LAYOUT,
    TRAJVIT2_LAYOUT,
    TRAJVLM_LAYOUT,
    Layout,
)

NUM_HEADS = 8


class CheckpointError(ValueError):
    """The file is not a checkpoint of the original, or not one that we can account for."""


def _compile(pattern: str) -> re.Pattern:
    escaped = re.escape(pattern)
    for name, expression in (("i", r"\d+"), ("j", r"\d+"), ("p", "weight|bias"), ("rest", ".+")):
        escaped = escaped.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{expression})")
    return re.compile(escaped)


def _rename(key: str, table: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, target in table:
        if match := pattern.fullmatch(key):
            return target.format(**match.groupdict())
    return None


def rotary_channel_order(width: int, positions: str) -> Tensor:
    """Row order that turns the original's query and key weights into ours, (D,).

    The original interleaves the channel pairs of a rotation; we keep the first of every pair, then the second.
    """
    head_dim = width // NUM_HEADS
    pairs = head_dim // 4 if positions == "sequence" else 3 * (head_dim // 12)
    rotated = torch.arange(2 * pairs).view(pairs, 2).t().flatten()
    head = torch.cat((rotated, torch.arange(2 * pairs, head_dim)))
    return (torch.arange(NUM_HEADS).unsqueeze(1) * head_dim + head).flatten()


def rotary_frequencies(width: int) -> Tensor:
    """The ``rotary_emb.freqs`` entry that the original stores next to each "sequence" attention."""
    half_head = width // NUM_HEADS // 2
    return 1.0 / (10000.0 ** (torch.arange(0, half_head, 2)[: half_head // 2].float() / half_head))


def _layout_of(state: dict[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if layout.marker in state:
            return layout
    raise CheckpointError(
        f"The file holds none of {[layout.marker for layout in LAYOUTS]}, expected a segmenter or tokenizer of the "
        f"original; it begins with {sorted(state)[:5]}. Point INPUT at the original's checkpoint."
    )


class _Shapes:
    """The sizes that the weights of a file tell."""

    def __init__(self, state: dict[str, Tensor], layout: Layout):
        self.state, self.layout = state, layout

    def count(self, pattern: str) -> int:
        """One more than the highest number that the pattern's group takes; 0 if no key matches."""
        found = [int(match[1]) for key in self.state if (match := re.match(pattern, key))]
        return max(found, default=-1) + 1

    def shape(self, key: str, axes: int) -> torch.Size:
        """The shape of a weight that must be there."""
        if key not in self.state:
            raise CheckpointError(f"The {self.layout.name} file lacks `{key}`, from which a size is read.")
        if self.state[key].dim() != axes:
            raise CheckpointError(f"`{key}` has shape {tuple(self.state[key].shape)}, expected {axes} axes.")
        return self.state[key].shape


def infer_config(
    state: dict[str, Tensor], transformer_heads: int = 16, text_heads: int = 12, **overrides
) -> TrajTokConfig | TrajViT2Config | TrajVLMConfig:
    """Read the sizes of a model from the shapes of its weights.

    Args:
        state: the original's state dict.
        transformer_heads: heads of TrajViT2's transformer, which leave no trace in the shapes.
        text_heads: heads of its text tower, likewise.
        **overrides: fields of the TrajTok that leave no trace (``encoder_queries``, ``feature_fusion``).

    Raises:
        CheckpointError: if the file is of no known layout, or a weight that tells a size is missing.
    """
    layout = _layout_of(state)
    try:
        trajtok = _infer_trajtok(_Shapes(state, layout), layout, overrides)
        if layout is TRAJVLM_LAYOUT:
            return _infer_trajvlm(_Shapes(state, layout), trajtok)
        if layout is not TRAJVIT2_LAYOUT:
            return TrajTokConfig(**trajtok)
        return _infer_trajvit2(_Shapes(state, layout), trajtok, transformer_heads, text_heads)
    except StrictDataclassError as error:
        raise CheckpointError(f"The shapes in the {layout.name} file do not make a model: {error}") from error


def _infer_trajvit2(shapes: _Shapes, trajtok: dict, transformer_heads: int, text_heads: int) -> TrajViT2Config:
    layer = "vision_encoder.vision_encoder.vit.encoder.layer."
    vocabulary, text_width = shapes.shape("text_encoder.embeddings.word_embeddings.weight", 2)
    projection_dim, width = shapes.shape("vision_proj.weight", 2)
    return TrajViT2Config(
        trajtok_config={**trajtok, "pixel_loss_weight": 0.5, "dice_loss_weight": 1.0},
        transformer_config={
            "hidden_size": width,
            "num_hidden_layers": shapes.count(re.escape(layer) + r"(\d+)\."),
            "num_attention_heads": transformer_heads,
            "intermediate_size": shapes.shape(f"{layer}0.intermediate.dense.weight", 2)[0],
            "mask_empty_trajectories": False,
        },
        text_config={
            "model_type": "bert",
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "num_hidden_layers": _num_text_layers(shapes),
            "num_attention_heads": text_heads,
            "intermediate_size": shapes.shape("text_encoder.encoder.layer.0.intermediate.dense.weight", 2)[0],
            "max_position_embeddings": shapes.shape("text_encoder.embeddings.position_embeddings.weight", 2)[0],
            "type_vocab_size": shapes.shape("text_encoder.embeddings.token_type_embeddings.weight", 2)[0],
        },
        projection_dim=projection_dim,
    )


def _infer_trajvlm(shapes: _Shapes, trajtok: dict) -> TrajVLMConfig:
    width = shapes.shape("query_proj.weight", 2)[0]
    text_width, hidden = shapes.shape("image_projector.w2.weight", 2)
    return TrajVLMConfig(
        vision_config={"model_type": "siglip_vision_model", "hidden_size": width, "vision_use_head": False},
        trajtok_config={**trajtok, "detach_patch_features": False},
        text_config={"model_type": "qwen3", "hidden_size": text_width},
        num_connector_layers=shapes.count(r"cross_attn\.layers\.(\d+)\."),
        num_connector_heads=NUM_HEADS,
        connector_mlp_ratio=shapes.shape("cross_attn.layers.0.1.up.weight", 2)[0] // width,
        projector_ratio=hidden // text_width,
        vision_image_mean=None,
        vision_image_std=None,
    )


def _num_text_layers(shapes: _Shapes) -> int:
    """Layers before the first one with cross-attention, which belongs to the fusion of the pretraining code."""
    fusion = [
        int(match[1])
        for key in shapes.state
        if (match := re.match(r"text_encoder\.encoder\.layer\.(\d+)\.crossattention\.", key))
    ]
    return min(fusion, default=shapes.count(r"text_encoder\.encoder\.layer\.(\d+)\."))


def _infer_trajtok(shapes: _Shapes, layout: Layout, overrides: dict) -> dict:
    """Keywords of the `TrajTokConfig`."""
    count, shape, state = shapes.count, shapes.shape, shapes.state
    segmenter, backbone = layout.segmenter, f"{layout.segmenter}patch_encoder.backbone."

    num_stages = count(re.escape(backbone) + r"downsample_layers\.(\d+)\.")
    upsampling = count(re.escape(segmenter) + r"patch_decoder_high_res\.conv_up\.(\d+)\.")
    perceiver = f"{segmenter}trajectory_perceiver."
    num_trajectories, width = shape(f"{perceiver}latents", 2)
    sizes = {
        "backbone_config": {
            "model_type": "dinov3_convnext",
            "depths": [count(re.escape(backbone) + rf"stages\.{stage}\.(\d+)\.") for stage in range(num_stages)],
            "hidden_sizes": [
                shape(f"{backbone}downsample_layers.{stage}.{0 if stage == 0 else 1}.weight", 4)[0]
                for stage in range(num_stages)
            ],
        },
        "hidden_size": width,
        "num_trajectories": num_trajectories,
        "num_attention_heads": NUM_HEADS,
        "num_query_layers": count(re.escape(perceiver) + r"layers\.(\d+)\."),
        "mlp_ratio": shape(f"{perceiver}layers.0.1.up.weight", 2)[0] // width,
        "query_positions": "sequence" if f"{perceiver}layers.0.0.norm_media.weight" in state else "grid",
        # conv_up ends at index 0, 3, 5 or 7 for a factor of 1, 2, 4 or 8.
        "high_res_factor": {0: None, 1: 1, 4: 2, 6: 4, 8: 8}.get(upsampling),
        "matching": "iou",
        "pixel_loss": "focal",
        "label_resampling": "nearest",
        "loss_pooling": "batch",
        "auxiliary_loss_weight": 0.0,
    }
    if layout.encoder is not None:
        encoder = f"{layout.encoder}traj_feature_updater."
        latents = f"{layout.encoder}latents"
        sizes |= {
            "num_encoder_layers": count(re.escape(encoder) + r"layers\.(\d+)\."),
            "encoder_positions": "sequence" if f"{encoder}layers.0.0.norm_media.weight" in state else "grid",
            "encoder_input_size": shape(f"{encoder}norm_ctx.weight", 1)[0],
            "encoder_output_size": shape(f"{layout.encoder}output_projector.weight", 2)[0],
            "max_tokens_per_trajectory": shape(latents, 3)[1] if latents in state else 1,
            "encoder_queries": "latents" if latents in state else "mean",
        }
    return sizes | {name: value for name, value in overrides.items() if value is not None}


def _perceivers(config: PreTrainedConfig, layout: Layout) -> list[tuple[str, str, int, int, str]]:
    """Prefix in the file, prefix in our model, layers, width and positions of each perceiver."""
    whole, config = config, getattr(config, "trajtok_config", config)
    found = [
        (
            f"{layout.segmenter}trajectory_perceiver.",
            f"{layout.trajtok}segmenter.perceiver.",
            config.num_query_layers,
            config.hidden_size,
            config.query_positions,
        )
    ]
    if layout.encoder is not None:
        found.append(
            (
                f"{layout.encoder}traj_feature_updater.",
                f"{layout.trajtok}encoder.perceiver.",
                config.num_encoder_layers,
                config.encoder_input_size,
                config.encoder_positions,
            )
        )
    if layout is TRAJVLM_LAYOUT:
        width = whole.vision_config.hidden_size
        found.append(("cross_attn.", "connector.perceiver.", whole.num_connector_layers, width, "grid"))
    return found


def _built_on_meta(model_class: type[PreTrainedModel], config: TrajTokConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return model_class(config)


def _text_layer(key: str) -> int:
    match = re.match(r"text_encoder\.encoder\.layer\.(\d+)\.", key)
    return int(match[1]) if match else -1


def to_ours(
    state: dict[str, Tensor], **overrides
) -> tuple[type[PreTrainedModel], PreTrainedConfig, dict[str, Tensor], dict[str, str]]:
    """Convert a state dict of the original.

    Args:
        state: the original's names and weights (a leading ``module.`` is removed).
        **overrides: what leaves no trace in the shapes, see `infer_config`.

    Returns:
        Model class, configuration, our state dict, and the ignored keys with the reason for each.

    Raises:
        CheckpointError: naming keys that are unknown, missing or of the wrong shape.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    layout = _layout_of(state)
    config = infer_config(state, **overrides)
    remaining, converted, ignored = dict(state), {}, {}

    norm_copy = f"{layout.segmenter}patch_encoder.backbone.norms.3."
    for kind in ("weight", "bias"):
        copy = remaining.pop(norm_copy + kind, None)
        norm = remaining.get(f"{layout.segmenter}patch_encoder.backbone.norm.{kind}")
        if copy is not None and norm is not None and not torch.equal(copy, norm):
            raise CheckpointError(f"`{norm_copy}{kind}` differs from the backbone's `norm.{kind}`, expected one norm.")
        if copy is not None:
            ignored[norm_copy + kind] = "second name of the backbone's `norm`"

    for theirs, ours, num_layers, width, positions in _perceivers(config, layout):
        order = rotary_channel_order(width, positions)
        for layer in range(num_layers):
            attention = f"{theirs}layers.{layer}.0."
            target = f"{ours}layers.{layer}.attention."
            query, key_value = remaining.get(f"{attention}to_q.weight"), remaining.get(f"{attention}to_kv.weight")
            if query is not None and query.shape[:1] == (width,):
                remaining[f"{attention}to_q.weight"] = query[order]
            if key_value is not None and key_value.shape[:1] == (2 * width,):
                del remaining[f"{attention}to_kv.weight"]
                converted[f"{target}k_proj.weight"] = key_value[:width][order]
                converted[f"{target}v_proj.weight"] = key_value[width:].clone()
            frequencies = remaining.pop(f"{attention}rotary_emb.freqs", None)
            if frequencies is not None:
                standard = rotary_frequencies(width)
                if frequencies.shape != standard.shape or not torch.allclose(frequencies.float(), standard):
                    raise CheckpointError(
                        f"`{attention}rotary_emb.freqs` are not the standard frequencies (theta 10000), which the "
                        "model computes itself."
                    )
                ignored[f"{attention}rotary_emb.freqs"] = "standard frequencies, computed by the model"

    table = [(_compile(source), target) for source, target in layout.table.items()]
    unused = {re.compile(pattern): reason for pattern, reason in layout.unused.items()}
    if layout is TRAJVIT2_LAYOUT:
        fusion = config.text_config.num_hidden_layers
        for key in [key for key in remaining if _text_layer(key) >= fusion]:
            ignored[key] = "fusion layer of the pretraining code, not run for text alone"
            del remaining[key]
        if "temp" in remaining:
            remaining["temp"] = remaining["temp"].reshape(1)
    unknown = []
    for key, value in remaining.items():
        if reason := next((reason for pattern, reason in unused.items() if pattern.fullmatch(key)), None):
            ignored[key] = reason
        elif (name := _rename(key, table)) is not None:
            converted[name] = value
        else:
            unknown.append(key)

    expected = {name: value.shape for name, value in _built_on_meta(layout.model_class, config).state_dict().items()}
    official = [(_compile(target), source) for source, target in layout.table.items()]
    for theirs, ours, *_ in _perceivers(config, layout):
        kept = _compile(f"{ours}layers.{{i}}.attention.").pattern
        official.append((re.compile(kept + r"[kv]_proj\.weight"), f"{theirs}layers.{{i}}.0.to_kv.weight"))
    problems = [f"unknown key `{key}`" for key in sorted(unknown)]
    problems += [
        f"missing key `{_rename(name, official)}` (our `{name}`)"
        for name in sorted(expected.keys() - converted.keys())
    ]
    problems += [f"the model has no `{name}`" for name in sorted(converted.keys() - expected.keys())]
    problems += [
        f"`{_rename(name, official)}` has shape {tuple(converted[name].shape)}, expected {tuple(expected[name])}"
        for name in sorted(expected.keys() & converted.keys())
        if converted[name].shape != expected[name]
    ]
    if problems:
        listed = "\n  ".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(
            f"The {layout.name} checkpoint does not balance, expected every key to have its place:\n  {listed}\n"
            "Check that the file is complete and comes from the original's code."
        )
    return layout.model_class, config, converted, ignored


def to_official(model: PreTrainedModel) -> dict[str, Tensor]:
    """Convert one of our models back into the original's names and layout (the inverse of `to_ours`).

    Segmenters get the released file's ``vision_encoder.`` prefix only where the original has it; load the result into
    the original's ``SimpleSegmenter``, ``SegmentTokenizer`` or ``SegmentCLIP``. Of a TrajViT2 that is what video and
    text alone need; the original's fusion layers and heads, which `to_ours` leaves out, do not come back.
    """
    state = dict(model.state_dict())
    config = getattr(model.config, "trajtok_config", model.config)
    if config.num_attention_heads != NUM_HEADS or config.rotary_theta != 10000.0:
        raise CheckpointError(
            f"The model has num_attention_heads={config.num_attention_heads}, rotary_theta={config.rotary_theta}, "
            f"expected {NUM_HEADS} and 10000: the original's code has no others, so a model that was trained with "
            "them cannot be converted back."
        )
    layout = SEGMENTER_LAYOUT
    if isinstance(model, TrajTokModel):
        layout = TOKENIZER_LAYOUT
    elif isinstance(model, TrajViT2Model):
        layout = TRAJVIT2_LAYOUT
        state["temperature"] = state["temperature"].reshape(())
    elif isinstance(model, TrajVLMGrouping):
        layout = TRAJVLM_LAYOUT
    official = {}
    for theirs, ours, num_layers, width, positions in _perceivers(model.config, layout):
        inverse = rotary_channel_order(width, positions).argsort()
        for layer in range(num_layers):
            source, attention = f"{ours}layers.{layer}.attention.", f"{theirs}layers.{layer}.0."
            state[f"{source}q_proj.weight"] = state[f"{source}q_proj.weight"][inverse]
            key, value = state.pop(f"{source}k_proj.weight"), state.pop(f"{source}v_proj.weight")
            official[f"{attention}to_kv.weight"] = torch.cat((key[inverse], value))
            if positions == "sequence":
                official[f"{attention}rotary_emb.freqs"] = rotary_frequencies(width)
    table = [(_compile(target), source) for source, target in layout.table.items()]
    for name, value in state.items():
        official[_rename(name, table)] = value
    backbone = f"{layout.segmenter}patch_encoder.backbone."
    for kind in ("weight", "bias"):
        official[f"{backbone}norms.3.{kind}"] = official[f"{backbone}norm.{kind}"]
    return official


def read_official_file(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a ``.pth`` or ``.safetensors`` file without executing anything that is in it.

    Raises:
        CheckpointError: if the file is missing, holds more than tensors and plain values, or holds no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"No file at {path}, expected a .pth or .safetensors checkpoint of the original.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be read as safetensors ({error}). Is it complete?") from error
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b"\x80\x02"):
            raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: no zip, no pickle. Is it complete?")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects besides tensors (training checkpoints of the original do); opening them "
            "would run code from the file. In the original's environment, if you trust it, write the weights alone: "
            f'torch.save({{"model": torch.load("{path.name}", weights_only=False)["model"]}}, "weights.pth")'
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint ({error}). Is it complete?") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    is_named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not is_named or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict, expected tensors by name, bare or under `model`.")
    return state


def convert_file(
    source: Path,
    output_dir: Path,
    report: Callable[[str], object] = print,
    tokenizer: str = "bert-base-uncased",
    **overrides,
) -> None:
    """Convert a checkpoint file of the original into a Transformers folder with model and processor.

    Args:
        source: ``.pth`` or ``.safetensors`` file.
        output_dir: the folder to write.
        report: called with lines about what was done.
        tokenizer: folder or Hub name of the tokenizer of a TrajViT2's text tower, which is not in the file.
        **overrides: what leaves no trace in the shapes, see `infer_config`.

    Raises:
        CheckpointError: for a file that does not balance, or a tokenizer that is not that of the text tower.
    """
    from .processors import TrajTokVideoProcessor, TrajViT2Processor

    model_class, config, state, ignored = to_ours(read_official_file(source), **overrides)
    model = _built_on_meta(model_class, config)
    model.load_state_dict(state, strict=True, assign=True)
    processor = TrajTokVideoProcessor()
    if model_class is TrajViT2Model:
        processor.num_frames = config.num_frames
        processor = TrajViT2Processor(processor, _text_tokenizer(tokenizer, config.text_config))
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    reasons = {}
    for reason in ignored.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    report(f"{source} -> {output_dir}: {model_class.__name__}, {model.num_parameters() / 1e6:.1f} M parameters")
    for reason, number in reasons.items():
        report(f"  left out {number} tensors: {reason}")


def _text_tokenizer(name: str, text_config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The tokenizer {name!r} of the text tower cannot be loaded ({error}). Name a folder or Hub repository "
            "that holds it with --tokenizer."
        ) from error
    if len(tokenizer) != text_config.vocab_size:
        raise CheckpointError(
            f"The tokenizer {name!r} has {len(tokenizer)} tokens, expected the {text_config.vocab_size} of the text "
            "tower. Name the right one with --tokenizer."
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_config.max_position_embeddings)
    return tokenizer


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="checkpoint of the original; with --reverse, a Transformers folder")
    parser.add_argument("output_dir", type=Path, help="Transformers folder; with --reverse, a .safetensors file")
    parser.add_argument("--encoder-queries", choices=["latents", "mean", "latents_and_mean"])
    parser.add_argument("--feature-fusion", choices=["sum", "last"])
    parser.add_argument("--transformer-heads", type=int, default=16, help="of a TrajViT2's transformer")
    parser.add_argument("--text-heads", type=int, default=12, help="of a TrajViT2's text tower")
    parser.add_argument("--tokenizer", default="bert-base-uncased", help="of a TrajViT2's text tower")
    parser.add_argument("--reverse", action="store_true", help="convert a folder of ours back to the original's names")
    arguments = parser.parse_args(argv)
    try:
        if arguments.reverse:
            config = AutoConfig.from_pretrained(arguments.input)
            class_name = (config.architectures or [""])[0]
            model_class = next(
                (layout.model_class for layout in LAYOUTS if layout.model_class.__name__ == class_name), None
            )
            if model_class is None:
                raise CheckpointError(
                    f"{arguments.input} holds a {class_name or config.model_type}, expected one of "
                    f"{sorted({layout.model_class.__name__ for layout in LAYOUTS})}."
                )
            model = model_class.from_pretrained(arguments.input)
            save_file(
                {name: value.contiguous().clone() for name, value in to_official(model).items()}, arguments.output_dir
            )
        else:
            convert_file(
                arguments.input,
                arguments.output_dir,
                tokenizer=arguments.tokenizer,
                transformer_heads=arguments.transformer_heads,
                text_heads=arguments.text_heads,
                encoder_queries=arguments.encoder_queries,
                feature_fusion=arguments.feature_fusion,
            )
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
