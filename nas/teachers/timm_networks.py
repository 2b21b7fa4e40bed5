"""Use any pretrained network of timm but RADIO's as a teacher, by its name ``NAME[@PX[/N]]``.

The summary is the output that the network was trained to summarize with: the class token (DINOv2, DINOv3), the
embedding shared with the text tower (CLIP), the attention-pooled token (SigLIP), the pooled features (classifiers); SAM
has none. The map is the last stage's, after the final norm, without class and register tokens. Images are resized whole
to the network's square input, with its own interpolation, mean and deviation; its center crop is left out, since
the student sees the whole image.

N x N small images make one large input (a mosaic) for teachers that were trained at a large size only (SAM: 1024 px),
as in RADIOv2.5 (arXiv 2412.07679). Features then depend on the neighbors in the mosaic, so the order of the images is
fixed. At @1024/4 an image has 16 x 16 of SAM's tokens. Its windows have 14 x 14 places on a map padded from 64 to 70,
so that on average 48 % of the places in a token's window are of the token's own image; in the four blocks of global
attention, 15 of 16 tokens are of other images. How much this changes the features of real images has not been measured.
An input of one image, as @256, is no mosaic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg, clean_state_dict, get_pretrained_cfg, is_model
from timm.models.hieradet_sam2 import HieraDet
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from nas.numbers import plural
from nas.study.teacher_names import TeacherError, teacher_choices
from nas.teachers.base import Teacher, TeacherOutput, TeacherSpec, complete_mosaics
from nas.teachers.weights import (
    TIMM_FILE,
    cached_hub_file,
    file_sha256,
    hub_bytes,
    hub_file,
    local_file,
    tensor_shapes,
)

SYNTAX = re.compile(r"(?P<network>[^@]*)(@(?P<px>\d+)(/(?P<tiles>\d+))?)?")
MAX_TILES = 5  # a side: teachers get 32 images at a time, and copies of these would fill a larger mosaic
LABEL_TAGS = ("_ft_in1k", "_ft_in12k", "_ft_in22k")  # CLIPs fine-tuned on labels: their head is a classifier

SUMMARIES: dict[str, Callable[[Any, Tensor], Tensor | None]] = {
    "none": lambda network, final: None,
    "projected": lambda network, final: network.forward_head(final),
    "class token": lambda network, final: final[:, 0],
    "pooled": lambda network, final: network.forward_head(final, pre_logits=True),
}
SEGMENT_ANYTHING = (VisionTransformerSAM, HieraDet)
# timm loads these with missing tensors, because their heads aren't in the files.
LOOSE = ("siglip_gap", "dla", "davit", "mobilenetv5", "fcmae")
REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, KeyError, AttributeError, IndexError)


@dataclass(frozen=True)
class TimmName:
    """A pretrained network of timm and its input: a square of `px` pixels a side with `tiles` x `tiles` images."""

    text: str
    architecture: str
    tag: str
    px: int
    tiles: int

    @property
    def network(self) -> str:
        """Return timm's full name, as ``vit_base_patch14_dinov2.lvd142m``."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    @property
    def projected(self) -> bool:
        """Tell whether its head projects into the space that a contrastive model shares with its text tower."""
        clip = "clip" in self.network or "pe_core" in self.architecture
        return clip and not any(tag in self.tag for tag in LABEL_TAGS)


def parse(text: str, builtin_names: Iterable[str] = ()) -> TimmName:
    """Parse the name of a network; `builtin_names` are names that aren't timm's, for the list of similar names.

    Raises TeacherError if timm has no such pretrained network, it is RADIO's, or the size is impossible.
    """
    match = SYNTAX.fullmatch(text)
    if not match:
        raise TeacherError(f"--teachers: {text!r}: must be NAME, NAME@PX or NAME@PX/N, as samvit_base_patch16@1024/4")
    network = match["network"]
    architecture = network.partition(".")[0]
    try:
        config = get_pretrained_cfg(network) if is_model(architecture) else None
    except RuntimeError:  # a tag that this architecture doesn't have
        config = None
    if config is None:
        raise TeacherError(f"--teachers: unknown teacher {network!r}; {teacher_choices(network, builtin_names)}")
    if "_radio_" in architecture:
        raise TeacherError(
            f"--teachers: {network}: timm does not tell RADIO's class tokens of several teachers from its registers, so"
            " its summary is unknown; take teachers like RADIO's own instead: am_radio or c_radio_v4"
        )
    if "quickgelu" not in architecture and any("QuickGELU" in note for note in config.notes or ()):
        native = architecture.replace("_clip_", "_clip_quickgelu_")
        raise TeacherError(f"--teachers: {network}: trained with QuickGELU; its exact network is {native}.{config.tag}")
    px, tiles = int(match["px"] or native_px(architecture, config)), int(match["tiles"] or 1)
    if not 32 <= px <= 4096 or tiles < 1 or px % tiles:
        raise TeacherError(f"--teachers: {text}: PX must be 32 to 4096, and N divide it")
    if tiles > MAX_TILES:
        raise TeacherError(f"--teachers: {text}: N is {tiles}; allowed: 1 to {MAX_TILES}")
    return TimmName(text, architecture, config.tag or "", px, tiles)


def images_of_mosaic(text: str) -> int:
    """Return how many images one input of the named teacher has; 1 for a name that is none of timm's networks."""
    match = SYNTAX.fullmatch(text)
    return int(match["tiles"] or 1) ** 2 if match else 1


def native_px(architecture: str, config: PretrainedCfg) -> int:
    """Return the side of a network's own input that its patches cover: 378 of SigLIP so400m's 384 px at 14 px each."""
    side: int = max(config.input_size[1:])
    patch = re.search(r"_patch(\d+)_", architecture)
    return side - side % int(patch[1]) if patch else side


def tile_images(images: Tensor, side: int) -> Tensor:
    """Lay images (B, C, H, W) out as mosaics (M, C, side H, side W) of side x side, row by row; completes the last."""
    _, channels, height, width = images.shape
    grid = complete_mosaics(images, side).reshape(-1, side, side, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, side * height, side * width)


def cut_maps(maps: Tensor, side: int, count: int) -> Tensor:
    """Cut the first `count` tiles (count, C, h, w) from maps (M, C, side h, side w), ordered as by `tile_images`."""
    _, channels, height, width = maps.shape
    grid = maps.reshape(-1, channels, side, height // side, side, width // side).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(-1, channels, height // side, width // side)[:count]


@dataclass(frozen=True)
class OutputLayout:
    """A network's outputs for one input: kind of summary, widths, side of the map, whether the map can be normed."""

    summary: str
    summary_dim: int
    spatial_dim: int
    grid: int
    norm: bool


class TimmTeacher(Teacher):
    """A pretrained timm network; the module's docstring describes its summary and map."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: TimmName, file: Path, fingerprint: str) -> None:
        super().__init__()
        self.name, self.fingerprint, self.tiles = name.text, fingerprint, name.tiles
        self.layout = layout(name)
        self.summary_dim, self.spatial_dim = self.layout.summary_dim, self.layout.spatial_dim
        self.source_px = name.px // name.tiles
        self.network = load_network(name, file)
        config = get_pretrained_cfg(name.network)
        self.interpolation: str = config.interpolation
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1))
        self.freeze()

    def forward(self, images: Tensor) -> TeacherOutput:
        """Return summary and map of images (B, 3, H, W) in [0, 1], in mosaics where the teacher takes these."""
        inputs = (resize(images, self.source_px, self.interpolation) - self.mean) / self.std
        final, spatial = features(self.network, tile_images(inputs, self.tiles), self.layout.norm)
        return TeacherOutput(
            SUMMARIES[self.layout.summary](self.network, final), cut_maps(spatial, self.tiles, len(images)).contiguous()
        )


def timm_spec(text: str, weights: Path | None = None, builtin_names: tuple[str, ...] = ()) -> TeacherSpec:
    """Return the teacher ``NAME[@PX[/N]]`` with weights from a local safetensors file, or from timm's hub.

    Raises TeacherError for an impossible name, size or file. Only `sha256` and `load` access the hub.
    """
    name = parse(text, builtin_names)
    shape = layout(name)
    config = get_pretrained_cfg(name.network)
    if weights is not None:
        local_file(text, weights)

    def file() -> Path:
        return weights or hub_file(text, config.hf_hub_id)

    spec = TeacherSpec(
        name=text,
        network=name.network,
        sha256=lambda: file_sha256(file()),
        preprocessing=(
            f"timm; rgb {config.interpolation} to {name.px // name.tiles} px, mean {config.mean}, std {config.std};"
            f" {name.tiles}x{name.tiles} in {name.px} px; summary {shape.summary}; last map, norm {shape.norm}; v1"
        ),
        load=lambda: TimmTeacher(name, file(), spec.fingerprint),
        source_px=name.px // name.tiles,
        widths=(shape.summary_dim, shape.spatial_dim),
        check=lambda: check_weights(name, weights),
        map_side=lambda px: shape.grid // name.tiles,
        is_here=lambda: (weights or cached_hub_file(config.hf_hub_id)) is not None,
        license=config.license,
        name_for_side=lambda side: name_for_side(name, side),
    )
    return spec


def name_for_side(name: TimmName, side: int) -> str | None:
    """Return this network's name at an input size whose maps have `side` tokens or more, the closest one.

    A mosaic keeps its size, which the network was trained at, and has fewer images. None where there is no such size.
    """
    network, rows = name.text.partition("@")[0], layout(name).grid
    tiles = (n for n in range(name.tiles, 1, -1) if rows % n == name.px % n == 0 and rows // n >= side)
    px = name.px if rows >= side else name.px // rows * side
    text = next((f"{network}@{name.px}/{n}" for n in tiles), f"{network}@{px}")
    try:
        fitting = parse(text)
        return text if layout(fitting).grid // fitting.tiles >= side else None
    except TeacherError:
        return None


@cache
def layout(name: TimmName) -> OutputLayout:
    """Run the network on the meta device, without weights; TeacherError where it cannot take that input."""
    network: Any = None
    try:
        with torch.device("meta"):
            network = create(name).eval()
            image = torch.zeros(1, 3, name.px, name.px)
            norm = can_norm(network, image)
            final, spatial = features(network, image, norm)
            kind = summary_kind(network, name)
            summary = SUMMARIES[kind](network, final)
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:160]
        raise TeacherError(
            f"--teachers: {name.text}: {name.network} gives no map at {name.px} px ({reason})"
            f"{_other_sizes(network, name.px)}"
        ) from error
    _, width, rows, columns = spatial.shape
    if rows != columns or name.px % rows or rows % name.tiles:
        raise TeacherError(
            f"--teachers: {name.text}: its map of {name.px} px is {rows} x {columns}, which must divide PX and be"
            f" cut into {name.tiles} x {name.tiles}{_other_sizes(network, name.px)}"
        )
    if name.tiles > 1 and summary is not None:
        raise TeacherError(f"--teachers: {name.text}: a mosaic has one summary for all its images; leave /N out")
    return OutputLayout(kind, 0 if summary is None else summary.shape[1], width, rows, norm)


def _other_sizes(network: Any, px: int) -> str:
    """Return what sizes a network of patches takes, in place of `px`; "" where `px` is one or it has no patches."""
    patch = max(getattr(getattr(network, "patch_embed", None), "patch_size", None) or (0,))
    return (
        f"; PX has to be a multiple of {patch}, as {max(1, round(px / patch)) * patch}" if patch and px % patch else ""
    )


def create(name: TimmName, weights: Path | Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build the network with the weights of a file, of tensors by their names, or random ones.

    timm maps names of tensors to its own.
    """
    config = get_pretrained_cfg(name.network)
    resized = config.fixed_input_size and tuple(config.input_size[1:]) != (name.px, name.px)
    # SAM resamples its position embedding in every pass; timm's loader does not.
    size = {"img_size": name.px} if resized and not name.architecture.startswith("samvit") else {}
    overlay: dict[str, Any] = {"file": str(weights)} if isinstance(weights, Path) else {"state_dict": weights}
    source = {"pretrained": True, "pretrained_cfg_overlay": overlay} if weights is not None else {}
    network: nn.Module = timm.create_model(name.network, **source, **size)
    return network


def load_network(name: TimmName, file: Path) -> nn.Module:
    """Build the network with the weights of a safetensors file; TeacherError where they aren't this network's.

    The file may have another classifier or none, where no output of the teacher uses it.
    """
    network = _fitted(name, file, file, _shapes(name, file), lambda: clean_state_dict(load_file(file)))
    damaged = next((key for key, value in network.state_dict().items() if not torch.isfinite(value).all()), None)
    if damaged is not None:
        raise TeacherError(f"teacher {name.text}: {file} is damaged: {damaged} is not finite; fetch it again")
    return network


def check_header(name: TimmName, file: Path) -> None:
    """Raise TeacherError where the names and shapes in a safetensors file aren't this network's; no tensor is read.

    timm loads tensors without data into a network without data, and refuses what it would refuse of the file itself.
    """
    shapes = _shapes(name, file)
    with torch.device("meta"):
        weights = clean_state_dict({key: torch.empty(shape) for key, shape in shapes.items()})
        try:
            _fitted(name, file, weights, shapes, lambda: weights)
        except TeacherError as error:
            if not isinstance(error.__cause__, NotImplementedError):  # an operation that needs data
                raise


def _fitted(
    name: TimmName,
    file: Path,
    weights: Path | Mapping[str, Tensor],
    present: Collection[str],
    read: Callable[[], Mapping[str, Tensor]],
) -> nn.Module:
    """Build the network with `weights`, or where these do not fit with those that `read` gives, without classifier."""
    try:
        return _filled(name, file, weights, present)
    except TeacherError as error:
        cause = error.__cause__
        if isinstance(cause, NotImplementedError) or not isinstance(cause, (RuntimeError, KeyError)):
            raise
    tensors = _with_own_classifier(name, read())
    return _filled(name, file, tensors, tensors)


def _with_own_classifier(name: TimmName, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with zeros for the network's classifier in place of their own; all of them where it is used."""
    if layout(name).summary == "projected":
        return dict(tensors)
    classifiers = get_pretrained_cfg(name.network).classifier or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    with torch.device("meta"):
        own = create(name).state_dict()
    blank = {key: torch.zeros(value.shape) for key, value in own.items() if key.rpartition(".")[0] in names}
    return {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in names} | blank


def check_weights(name: TimmName, file: Path | None) -> str:
    """Say where the weights of a network come from. Only headers of files are read, and nothing is downloaded.

    Args:
        name: The network.
        file: The user's file; None for the hub's.

    Raises:
        TeacherError: There are no weights here or on the hub, or they aren't this network's.
    """
    repository = get_pretrained_cfg(name.network).hf_hub_id
    here = local_file(name.text, file) if file is not None else cached_hub_file(repository)
    if here is not None:
        check_header(name, here)
        return f"its weights are here{f', in {file}' if file is not None else ''}"
    try:
        size = hub_bytes(name.text, repository)
    except TeacherError as error:
        raise TeacherError(f"{error}; it has about {4 * parameters(name.network) / 1e9:.2g} GB") from error
    return f"{f'{size / 1e9:.2g} GB' if size else 'its weights'} will be downloaded from {repository} ({TIMM_FILE})"


def parameters(text: str) -> int:
    """Return the number of parameters of a network of timm, without its weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create(parse(text)).parameters())


def _shapes(name: TimmName, file: Path) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(file, f"teacher {name.text}: {file}")


def _filled(name: TimmName, file: Path, weights: Path | Mapping[str, Tensor], present: Collection[str]) -> nn.Module:
    """Build the network with `weights`, which are those of `file` or stand for them."""
    try:
        network = create(name, weights)
    except (*REFUSALS, SafetensorError) as error:
        reason = "; ".join(line.strip()[:100] for line in str(error).splitlines()[1:] or [str(error)][:3])
        raise TeacherError(
            f"teacher {name.text}: {file} does not fit {name.network}: {reason[:160]}; {own_file(name)}"
        ) from error
    missing = [key for key in network.state_dict() if key not in present and not key.startswith("head")]
    if missing and any(word in name.network for word in LOOSE):
        lacking = f"{plural(len(missing), 'tensor')} missing, as {missing[0]}"
        raise TeacherError(f"teacher {name.text}: {file} does not fit {name.network}: {lacking}; {own_file(name)}")
    return network


def own_file(name: TimmName) -> str:
    """Say which file is a network's, and how it is named."""
    repository = get_pretrained_cfg(name.network).hf_hub_id
    place = f" ({repository}/{TIMM_FILE} on the hub)" if repository else ""
    return f"give the network's own file{place} by --teacher-weights {name.text.partition('@')[0]}=FILE"


def features(network: Any, inputs: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
    """Return the final features in the network's own form, and the last map (B, C, h, w)."""
    final, maps = network.forward_intermediates(inputs, indices=1, norm=norm, output_fmt="NCHW")
    return final, maps[-1]


def can_norm(network: nn.Module, image: Tensor) -> bool:
    """Tell whether timm can put the final norm on the last map; a few networks raise."""
    try:
        features(network, image, norm=True)
    except AssertionError:
        return False
    return True


def summary_kind(network: Any, name: TimmName) -> str:
    """Return the key of SUMMARIES that fits this network."""
    if isinstance(network, SEGMENT_ANYTHING):
        return "none"
    if name.projected and network.num_classes > 0:
        return "projected"
    # DINOv3's head in timm averages the patches; it was trained to summarize with the class token.
    attention_pooled = getattr(network, "attn_pool", None) is not None
    if network.num_classes == 0 and getattr(network, "cls_token", None) is not None and not attention_pooled:
        return "class token"
    return "pooled"


def resize(images: Tensor, side_px: int, interpolation: str) -> Tensor:
    """Resize images (B, 3, H, W) in [0, 1] to side_px squares, antialiased; bicubic's overshoots are clipped."""
    if images.shape[-2:] == (side_px, side_px):
        return images
    return F.interpolate(images, (side_px, side_px), mode=interpolation, antialias=True).clamp(0, 1)
