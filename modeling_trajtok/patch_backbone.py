"""The patch features of any vision or video model of Transformers, with the grid that they lie on.

In:   pixel_values_videos (B, T, 3, H_px, W_px), ImageNet-normalised; a frozen model
Out:  `PatchFeatures`
To:   modeling_trajadapter; its input helpers also modeling_trajvlm

Which tokens are patches, and of which place and time, is found: the number of tokens tells how many of them are no
patches (CLS, registers: they stand in front), and of a video model the order is found by changing single patches.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import ModelOutput

from .configuration_trajadapter import TrajAdapterConfig
from .grid_ops import GridSize
from .perceiver_trajtok import checkpoint_input

# Frames that go through an image model at a time at inference.
FRAMES_AT_A_TIME = 16
# Tokens in front of the patches: CLS, registers, ...
MOST_PREFIX_TOKENS = 16
# Patch sides and strides that are tried for a model whose configuration names none.
PATCH_SIDES_PX = (4, 8, 14, 16, 18, 32, 64)
MOST_STAGES = 5
# Children of a model that only work on the features that it gives, or predict others from them.
UNUSED_PARTS = ("pooler", "head", "predictor")


NO_RECORDS: Mapping[str, Any] = MappingProxyType({})


class PatchFeatures(NamedTuple):
    """What a backbone gives for clips.

    Attributes:
        patches: (B, N, D) features.
        grid: of the N patches.
        cls: (B, D) states of CLS, averaged over calls; None without CLS.
        records: what else was asked for, under "hidden_states" and "attentions": a tensor for each layer, with a row
            for each call; None for a layer that was not asked for.
    """

    patches: Tensor
    grid: GridSize
    cls: Tensor | None
    records: Mapping[str, tuple[Tensor | None, ...]] = NO_RECORDS


class PatchLayout(NamedTuple):
    """Where patches stand among the tokens of one call.

    Attributes:
        grid: of the patches of one call.
        num_prefix: tokens in front of them.
        time_fastest: the patches of one place stand together, not those of one frame.
    """

    grid: GridSize
    num_prefix: int
    time_fastest: bool = False

    def patches_of(self, tokens: Tensor) -> Tensor:
        """Tokens (C, S, D) to patches (C, N, D), time slowest."""
        patches = tokens[:, self.num_prefix :]
        if not self.time_fastest:
            return patches
        return patches.unflatten(1, (self.grid.patches_per_frame, self.grid.t)).transpose(1, 2).flatten(1, 2)


def renormalise(images: Tensor, mean: float | Sequence[float], std: float | Sequence[float]) -> Tensor:
    """ImageNet-normalised images (..., 3, H_px, W_px) normalised with another mean and standard deviation."""
    old_mean, old_std, new_mean, new_std = (
        torch.tensor(values, device=images.device, dtype=images.dtype).view(-1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, mean, std)
    )
    return (images * old_std + old_mean - new_mean) / new_std


def flat_patches(images: Tensor, side_px: int) -> dict[str, Tensor]:
    """Images (C, 3, H_px, W_px) as SigLIP2 reads them: flattened patches, their number per row and column."""
    rows, columns = images.shape[-2] // side_px, images.shape[-1] // side_px
    patches = F.unfold(images, side_px, stride=side_px).unflatten(1, (3, side_px, side_px))
    patches = patches.permute(0, 4, 2, 3, 1).flatten(2)
    return {
        "pixel_values": patches,
        "spatial_shapes": torch.tensor([[rows, columns]], device=images.device).expand(images.shape[0], -1),
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.long),
    }


def tokens_of(states: Tensor) -> Tensor:
    """States (C, S, D), or (C, D, H, W) of a convolutional model, as tokens (C, S, D)."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def all_trained(module: nn.Module) -> bool:
    """Whether a module has parameters, and all of them ask for a gradient."""
    asked = [parameter.requires_grad for parameter in module.parameters()]
    return bool(asked) and all(asked)


def vision_config_of(config):
    """The configuration of the vision tower, of a model of images and text; otherwise the same."""
    return getattr(config, "vision_config", None) or config


def load_vision_model(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The vision or video model of a checkpoint; of a model of images and text its vision tower.

    Raises:
        ValueError: if the checkpoint lacks some of its weights.
    """
    config = vision_config_of(AutoConfig.from_pretrained(name, revision=revision))
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"{name} is a checkpoint of type {config.model_type}, for which AutoModel has no model.")
    model, found = MODEL_MAPPING[type(config)].from_pretrained(
        name, config=config, revision=revision, dtype=dtype, output_loading_info=True
    )
    # Classifiers are saved without the pooling head that AutoModel adds; patch features do not pass through it.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{name} lacks weights of {type(model).__name__}: {', '.join(missing[:5])}. Name a checkpoint of a vision "
            "or video model."
        )
    return model


class UnusedHead(nn.Module):
    """In place of a part of a model that patch features do not pass through."""

    def forward(self, states: Tensor, *args, **kwargs) -> Tensor:
        """What it is given."""
        return states


class PatchBackbone(PreTrainedModel):
    """A vision or video model that gives patch features.

    It is frozen, and parts that patch features do not pass through (`UNUSED_PARTS`) are left out. What somebody
    trains in it all the same, such as adapters of PEFT, gets gradients and is in training mode.

    Args:
        config: a `TrajAdapterConfig`; of it the fields about the backbone.
    """

    config: TrajAdapterConfig
    config_class = TrajAdapterConfig
    base_model_prefix = ""
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: TrajAdapterConfig):
        super().__init__(config)
        self.model = AutoModel.from_config(config.backbone_config)
        for name in UNUSED_PARTS:
            if any(True for _ in getattr(self.model, name, nn.Identity()).parameters()):
                setattr(self.model, name, UnusedHead())
        self._layouts = {}
        self._loaded_sums = None
        self.post_init()
        self.freeze()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of patches."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of patches."""
        self.model.set_input_embeddings(value)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of a model of the same class.

        Raises:
            RuntimeError: if weights are missing, or are of other shapes or names.
        """
        self.model.load_state_dict(self._used(state))
        self._loaded_sums = self._sums()

    def has_weights(self, state: dict[str, Tensor]) -> bool:
        """Are the weights those of a model of the same class, but for their type?"""
        own, other = self.model.state_dict(), self._used(state)
        return own.keys() == other.keys() and all(
            torch.equal(value, other[key].to(value.device, value.dtype)) for key, value in own.items()
        )

    def is_as_loaded(self) -> bool:
        """Whether no weight has changed since `load`, nor its type."""
        return self._loaded_sums is not None and self._loaded_sums == self._sums()

    def _used(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        unused = tuple(f"{name}." for name in UNUSED_PARTS if isinstance(getattr(self.model, name, None), UnusedHead))
        return {key: value for key, value in state.items() if not key.startswith(unused)}

    def _sums(self) -> list[float]:
        """A sum for each weight: changes by training or merging show in them."""
        return [float(value.double().sum()) for value in self.model.state_dict().values() if not value.is_meta]

    def freeze(self) -> None:
        """No gradients, no dropout."""
        self.model.requires_grad_(False).eval()

    @property
    def is_trained(self) -> bool:
        """Does anything in the model ask for a gradient?"""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def train(self, mode: bool = True) -> "PatchBackbone":
        """The model stays as it is in evaluation, but for the parts of it that are trained."""
        super().train(mode)
        self.model.eval()
        if mode and self.is_trained:
            for part in self.model.modules():
                wrapped = getattr(part, "base_layer", None)  # of an adapter of PEFT
                if wrapped is not None or all_trained(part):
                    part.train()
                if wrapped is not None and not all_trained(wrapped):
                    wrapped.eval()
        return self

    @property
    def reads_videos(self) -> bool:
        """Does the model read clips, or single images?"""
        config = self.config.backbone_config
        return self.model.main_input_name == "pixel_values_videos" or any(
            getattr(config, name, None) for name in ("num_frames", "tubelet_size", "frames_per_clip")
        )

    def forward(
        self, pixel_values_videos: Tensor, frame_valid: Tensor | None = None, records: Mapping[str, Any] = NO_RECORDS
    ) -> PatchFeatures:
        """Patch features of clips, without a graph unless something in the model is trained.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised, T a multiple of `config.frame_multiple`.
            frame_valid: (B, T), False for padded frames at the end; calls without a valid frame are left out, and
                their features are zeros.
            records: "hidden_states" and "attentions", if the states and attention weights of layers are wanted, with
                True, or the numbers of the layers.

        Raises:
            ValueError: if the model cannot read frames of this size, its tokens cannot be laid on a grid, or records
                of clips of different lengths are asked for.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.is_trained):
            return self._features_of_valid(pixel_values_videos, frame_valid, records)

    def _features_of_valid(
        self, pixel_values_videos: Tensor, frame_valid: Tensor | None, records: Mapping[str, Any]
    ) -> PatchFeatures:
        batch, frames = pixel_values_videos.shape[:2]
        if frame_valid is None:
            return self._features(pixel_values_videos, records)
        if torch.compiler.is_compiling():
            return self._features_of_calls(pixel_values_videos, frame_valid, records)
        if frame_valid.all():
            return self._features(pixel_values_videos, records)
        if records:
            raise ValueError(
                f"TrajAdapter was asked for {' and '.join(records)} of clips with padded frames, expected clips of "
                "one length. Pass clips of different lengths one by one."
            )
        multiple = self.config.frame_multiple
        lengths = (frame_valid.sum(dim=1) + multiple - 1) // multiple * multiple
        patches = cls = grid = None
        # A model that attends to all frames would see the padding, so clips of different lengths go one after another.
        for length in lengths.unique().tolist():
            chosen = lengths == length
            part = self._features(pixel_values_videos[chosen, :length])
            if patches is None:
                grid = part.grid._replace(t=part.grid.t * frames // length)
                patches = part.patches.new_zeros(batch, grid.num_patches, part.patches.shape[2])
                cls = None if part.cls is None else part.cls.new_zeros(batch, part.cls.shape[1])
            patches[chosen, : part.grid.num_patches] = part.patches
            if cls is not None:
                cls[chosen] = part.cls
        return PatchFeatures(patches, grid, cls)

    def _features_of_calls(
        self, pixel_values_videos: Tensor, frame_valid: Tensor, records: Mapping[str, Any]
    ) -> PatchFeatures:
        """As `_features_of_valid`, but of a model that sees calls by themselves, with no step that depends on data."""
        if self.reads_videos and self.config.frames_per_call is None:
            raise ValueError(
                f"{type(self.model).__name__} sees whole clips, so padded ones go through it one length after "
                "another, which cannot be traced. Export or compile it without frame_valid, for clips of one length."
            )
        per_call = self._frames_per_call(pixel_values_videos.shape[1])
        return self._features(pixel_values_videos, records, frame_valid.unflatten(1, (-1, per_call)).any(dim=2))

    def _features(
        self,
        pixel_values_videos: Tensor,
        records: Mapping[str, Any] = NO_RECORDS,
        call_valid: Tensor | None = None,
    ) -> PatchFeatures:
        """As `forward`, of clips of the same length, or with calls (B, C) that do not count."""
        batch, frames = pixel_values_videos.shape[:2]
        pixels, per_call = self._prepare(pixel_values_videos), self._frames_per_call(frames)
        calls = pixels.unflatten(1, (-1, per_call)).flatten(0, 1)
        if self.training and self.model.is_gradient_checkpointing:
            calls = checkpoint_input(self.model, calls)
        if torch.compiler.is_compiling():
            outputs = [self._run(calls, records)]
            layout = self._traced_layout(outputs[0].last_hidden_state, tuple(calls.shape[1:]))
        else:
            layout = self._layout(calls[:1])
            step = max(1, FRAMES_AT_A_TIME // per_call)
            outputs = [self._run(calls[first : first + step], records) for first in range(0, calls.shape[0], step)]
        tokens = torch.cat([tokens_of(output.last_hidden_state) for output in outputs])
        patches = layout.patches_of(tokens).reshape(batch, -1, tokens.shape[-1])
        grid = layout.grid._replace(t=layout.grid.t * (frames // per_call))
        cls = tokens[:, 0].unflatten(0, (batch, -1)) if layout.num_prefix else None
        if call_valid is None:
            cls = None if cls is None else cls.mean(dim=1)
        else:
            counted = call_valid.unsqueeze(2).to(tokens.dtype)
            patches = (patches.unflatten(1, (frames // per_call, -1)) * counted.unsqueeze(3)).flatten(1, 2)
            cls = None if cls is None else (cls * counted).sum(dim=1) / counted.sum(dim=1)
        recorded = {
            name: tuple(
                None if parts[0] is None else torch.cat(parts)
                for parts in zip(*(getattr(output, name) or () for output in outputs), strict=True)
            )
            for name in records
        }
        return PatchFeatures(patches, grid, cls, recorded)

    def _prepare(self, pixels: Tensor) -> Tensor:
        """Resize, normalise and convert clips as the model wants them."""
        config = self.config
        if config.resized_hw not in (None, tuple(pixels.shape[-2:])):
            images = F.interpolate(
                pixels.flatten(0, 1), size=config.resized_hw, mode="bilinear", align_corners=False, antialias=True
            )
            pixels = images.unflatten(0, tuple(pixels.shape[:2]))
        pixels = renormalise(pixels, config.backbone_image_mean, config.backbone_image_std)
        return pixels.to(next(self.model.parameters()).dtype)

    def _frames_per_call(self, frames: int) -> int:
        return (self.config.frames_per_call or frames) if self.reads_videos else 1

    def _tokens(self, calls: Tensor) -> Tensor:
        """Calls (C, c, 3, H_px, W_px) to all tokens (C, S, D)."""
        return tokens_of(self._states(calls))

    def _states(self, calls: Tensor) -> Tensor:
        """Calls (C, c, 3, H_px, W_px) to what the model gives: (C, S, D), or (C, D, H, W) of a convolutional one."""
        return self._run(calls).last_hidden_state

    def _run(self, calls: Tensor, records: Mapping[str, Any] = NO_RECORDS) -> ModelOutput:
        """Calls (C, c, 3, H_px, W_px) to the model's output, with the records that are asked for."""
        name, images = self.model.main_input_name, calls if self.reads_videos else calls.flatten(0, 1)
        accepted = inspect.signature(self.model.forward).parameters
        if "spatial_shapes" in accepted:
            inputs = flat_patches(images, self.config.backbone_config.patch_size)
        else:
            inputs = {name: images}
        if "interpolate_pos_encoding" in accepted:
            inputs["interpolate_pos_encoding"] = self._differs_from_training_size(images)
        if "skip_predictor" in accepted:
            inputs["skip_predictor"] = True
        inputs.update({f"output_{name}": wanted for name, wanted in records.items()})
        return self.model(**inputs, return_dict=True)

    def _differs_from_training_size(self, images: Tensor) -> bool:
        size = getattr(self.config.backbone_config, "image_size", None)
        size = (size, size) if isinstance(size, int) else size
        return size is not None and tuple(size) != tuple(images.shape[-2:])

    # --- which token is which patch ----------------------------------------------------------------------------------

    @torch.no_grad()
    def _layout(self, call: Tensor) -> PatchLayout:
        """The layout for clips of this shape; found once, in evaluation mode."""
        key = tuple(call.shape[1:])
        if key not in self._layouts:
            self.model.eval()
            name, shape = type(self.model).__name__, f"{call.shape[1]} frames of {call.shape[3]}x{call.shape[4]} px"
            try:
                states = self._states(call)
            except (RuntimeError, ValueError, AssertionError) as error:
                raise ValueError(
                    f"{name} cannot read {shape}: {' '.join(str(error).split())} Set backbone_size_px and "
                    "backbone_num_frames to what it was trained with."
                ) from error
            if states.dim() not in (3, 4) or states.shape[0] != 1:
                raise ValueError(
                    f"{name} gives states of shape {tuple(states.shape)} for {shape}, expected (1, tokens, width). It "
                    "is no backbone with patch features."
                )
            if not torch.allclose(self._states(call), states, atol=1e-3, rtol=1e-3):
                raise ValueError(
                    f"{name} gives other states when it sees the same {shape} again, expected a feature for each "
                    "patch in its place. Masked autoencoders (ViT-MAE) leave out patches at random; use another "
                    "backbone."
                )
            layouts = (
                [PatchLayout(GridSize(1, *states.shape[2:]), 0)]
                if states.dim() == 4
                else self._candidates(states.shape[1], key)
            )
            if not layouts:
                raise ValueError(
                    f"{name} gives {states.shape[1]} tokens of width {states.shape[2]} for {shape}, which cannot be "
                    f"laid on a grid of patches with at most {MOST_PREFIX_TOKENS} other tokens. Use another backbone, "
                    "or give its features to TrajTokModel as patch_features with their patch_grid."
                )
            self._layouts[key] = layouts[0] if len(layouts) == 1 else self._found_by_change(layouts, key, call)
            self.train(self.training)
        return self._layouts[key]

    def _traced_layout(self, states: Tensor, shape: tuple[int, ...]) -> PatchLayout:
        """The layout while the model is exported or compiled: what is known of frames of this size, for any number."""
        for known, layout in self._layouts.items():
            if known[1:] == shape[1:]:
                return layout._replace(grid=layout.grid._replace(t=shape[0] // self.config.tubelet_frames))
        layouts = []
        if states.dim() == 4:
            layouts = [PatchLayout(GridSize(1, *states.shape[2:]), 0)]
        elif not self.reads_videos:
            layouts = self._candidates(states.shape[1], shape)
        if len(layouts) != 1:
            raise ValueError(
                f"{type(self.model).__name__} has not been called with frames of {shape[2]}x{shape[3]} px, so it is "
                "not known yet which of its tokens is which patch. Call the model once with clips of this size, then "
                "export or compile it."
            )
        return layouts[0]

    def _candidates(self, num_tokens: int, shape: tuple[int, ...]) -> list[PatchLayout]:
        """Layouts with as many tokens: of the side of a patch that leaves the fewest tokens that are no patches."""
        config = self.config.backbone_config
        frames, _, height, width = shape
        tubelet = getattr(config, "tubelet_size", None)
        tubelet = [1 if tubelet is None else tubelet] if not isinstance(tubelet, Sequence) else list(tubelet)
        sides = tubelet[1:] or getattr(config, "patch_size", None)
        if sides is None:
            sides = [(side, side) for side in PATCH_SIDES_PX]
        else:
            rows, columns = (sides, sides) if isinstance(sides, int) else sides
            # Stages of a hierarchical model merge 2 x 2 patches each.
            stages = MOST_STAGES if hasattr(config, "depths") else 1
            sides = [(rows << stage, columns << stage) for stage in range(stages)]
        t, best, fewest = frames // tubelet[0], [], MOST_PREFIX_TOKENS + 1
        for rows, columns in sides:
            # A patch that does not fit is left out by some models; others (Swin) pad the image.
            grids = {
                GridSize(t, height // rows, width // columns),
                GridSize(t, -(-height // rows), -(-width // columns)),
            }
            surplus = {grid: num_tokens - grid.num_patches for grid in grids if grid.num_patches}
            surplus = {grid: number for grid, number in surplus.items() if 0 <= number <= MOST_PREFIX_TOKENS}
            if surplus and min(surplus.values()) < fewest:
                best, fewest = surplus, min(surplus.values())
        return [
            PatchLayout(grid, best[grid], time_fastest)
            for grid in best
            for time_fastest in ((False, True) if min(grid.t, grid.patches_per_frame) > 1 else (False,))
        ]

    def _found_by_change(self, layouts: Sequence[PatchLayout], shape: tuple[int, ...], call: Tensor) -> PatchLayout:
        """The layout under which a change of one patch changes the token of that patch most."""
        height, width = shape[2:]
        blank = torch.zeros_like(call)
        before, scores = self._tokens(blank), dict.fromkeys(layouts, 0.0)
        for grid in {layout.grid for layout in layouts}:
            for t, h, w in {(0, grid.h - 1, grid.w // 2), (grid.t - 1, 0, grid.w // 2), (grid.t // 2, grid.h // 2, 0)}:
                changed = blank.unflatten(1, (grid.t, -1)).clone()
                rows = slice(h * height // grid.h, (h + 1) * height // grid.h)
                columns = slice(w * width // grid.w, (w + 1) * width // grid.w)
                changed[:, t, :, :, rows, columns] = 1.0
                change = (self._tokens(changed.flatten(1, 2)) - before).float().norm(dim=-1, keepdim=True)
                place = (t * grid.h + h) * grid.w + w
                for layout in layouts:
                    if layout.grid == grid:
                        scores[layout] += float(layout.patches_of(change)[0, place, 0] / change.sum())
        return max(scores, key=scores.get)
