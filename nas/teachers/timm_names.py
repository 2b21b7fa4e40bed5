"""Names of timm networks as teachers: ``NAME[@PX[/N]]``, parsed and checked without building anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from timm.models import get_pretrained_cfg, is_model, list_pretrained

from nas.teachers.base import TeacherError

SYNTAX = re.compile(r"(?P<network>[^@]*)(@(?P<px>\d+)(/(?P<tiles>\d+))?)?")
LABEL_TAGS = ("_ft_in1k", "_ft_in12k", "_ft_in22k")  # CLIPs fine-tuned on labels: their head is a classifier


@dataclass(frozen=True)
class TimmName:
    """A pretrained network of timm and how it is fed.

    `px` is the side of its square input, which holds `tiles` x `tiles` images.
    """

    text: str
    architecture: str
    tag: str
    px: int
    tiles: int

    @property
    def network(self) -> str:
        """timm's full name, as ``vit_base_patch14_dinov2.lvd142m``."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    @property
    def projected(self) -> bool:
        """Whether its head projects into the space that a contrastive image-text model shares with its text tower."""
        clip = "clip" in self.network or "pe_core" in self.architecture
        return clip and not any(tag in self.tag for tag in LABEL_TAGS)


def parse(text: str, ours: Iterable[str] = ()) -> TimmName:
    """The network that `text` names; `ours` are names that aren't timm's, for the list of near choices.

    Raises TeacherError where timm has no such pretrained network, or the size cannot be.
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
        raise TeacherError(f"--teachers: unknown teacher {network!r}; {choices(network, ours)}")
    if "quickgelu" not in architecture and any("QuickGELU" in note for note in config.notes or ()):
        native = architecture.replace("_clip_", "_clip_quickgelu_")
        raise TeacherError(f"--teachers: {network}: trained with QuickGELU; its exact network is {native}.{config.tag}")
    px, tiles = int(match["px"] or max(config.input_size[1:])), int(match["tiles"] or 1)
    if not 32 <= px <= 4096 or tiles < 1 or px % tiles:
        raise TeacherError(f"--teachers: {text}: PX must be 32 to 4096, and N divide it")
    return TimmName(text, architecture, config.tag or "", px, tiles)


def choices(network: str, ours: Iterable[str]) -> str:
    """What could have been meant."""
    near = get_close_matches(network, [*ours, *list_pretrained()], n=5, cutoff=0.5)
    ending = "any pretrained timm network" + (f"; nearest: {', '.join(near)}" if near else "")
    return f"choices: {', '.join(ours)}, a comma list of these, or {ending}"
