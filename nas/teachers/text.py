"""Text towers of CLIP and SigLIP teachers, for zero-shot classification; needs open_clip, which is optional.

A text tower is trained together with one image tower and fits no other, so `TEXT_TOWERS` maps image towers to text
towers. A local ``open_clip_model.safetensors`` holds both towers and serves as the teacher's weights too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor
from torch.nn import functional as F

from nas.study.teacher_names import TeacherError
from nas.teachers.timm_networks import parse
from nas.teachers.weights import (
    OPEN_CLIP_FILE,
    cached_hub_file,
    file_for,
    hub_bytes,
    hub_file,
    local_file,
    tensor_shapes,
)

# The prompts that OpenAI selected of CLIP's 80 for ImageNet: notebooks/Prompt_Engineering_for_ImageNet.ipynb of
# github.com/openai/CLIP. open_clip has them as SIMPLE_IMAGENET_TEMPLATES.
TEMPLATES = (
    "itap of a {}.",  # "I took a picture"
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
TEXT_BATCH = 256  # prompts
TEXT_TENSORS = re.compile(r"^(text\.|token_embedding\.|transformer\.)")
TOKENIZER_FILE = "tokenizer.json"

# timm's network -> open_clip's model and tag of the same training.
TEXT_TOWERS: dict[str, tuple[str, str]] = {
    "vit_base_patch32_clip_quickgelu_224.openai": ("ViT-B-32-quickgelu", "openai"),
    "vit_base_patch16_clip_quickgelu_224.openai": ("ViT-B-16-quickgelu", "openai"),
    "vit_large_patch14_clip_quickgelu_224.openai": ("ViT-L-14-quickgelu", "openai"),
    "vit_large_patch14_clip_quickgelu_336.openai": ("ViT-L-14-336-quickgelu", "openai"),
    "vit_base_patch32_clip_224.laion2b": ("ViT-B-32", "laion2b_s34b_b79k"),
    "vit_base_patch16_clip_224.laion2b": ("ViT-B-16", "laion2b_s34b_b88k"),
    "vit_large_patch14_clip_224.laion2b": ("ViT-L-14", "laion2b_s32b_b82k"),
    "vit_huge_patch14_clip_224.laion2b": ("ViT-H-14", "laion2b_s32b_b79k"),
    "vit_gigantic_patch14_clip_224.laion2b": ("ViT-bigG-14", "laion2b_s39b_b160k"),
    "vit_base_patch32_clip_224.datacompxl": ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    "vit_base_patch16_clip_224.datacompxl": ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    "vit_large_patch14_clip_224.datacompxl": ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    "vit_large_patch14_clip_quickgelu_224.dfn2b": ("ViT-L-14-quickgelu", "dfn2b"),
    "vit_huge_patch14_clip_quickgelu_224.dfn5b": ("ViT-H-14-quickgelu", "dfn5b"),
    "vit_huge_patch14_clip_quickgelu_378.dfn5b": ("ViT-H-14-378-quickgelu", "dfn5b"),
    "vit_base_patch32_clip_quickgelu_224.metaclip_2pt5b": ("ViT-B-32-quickgelu", "metaclip_fullcc"),
    "vit_base_patch16_clip_quickgelu_224.metaclip_2pt5b": ("ViT-B-16-quickgelu", "metaclip_fullcc"),
    "vit_large_patch14_clip_quickgelu_224.metaclip_2pt5b": ("ViT-L-14-quickgelu", "metaclip_fullcc"),
    "vit_huge_patch14_clip_quickgelu_224.metaclip_2pt5b": ("ViT-H-14-quickgelu", "metaclip_fullcc"),
    "vit_base_patch16_siglip_224.webli": ("ViT-B-16-SigLIP", "webli"),
    "vit_base_patch16_siglip_256.webli": ("ViT-B-16-SigLIP-256", "webli"),
    "vit_base_patch16_siglip_384.webli": ("ViT-B-16-SigLIP-384", "webli"),
    "vit_base_patch16_siglip_512.webli": ("ViT-B-16-SigLIP-512", "webli"),
    "vit_large_patch16_siglip_256.webli": ("ViT-L-16-SigLIP-256", "webli"),
    "vit_large_patch16_siglip_384.webli": ("ViT-L-16-SigLIP-384", "webli"),
    "vit_so400m_patch14_siglip_224.webli": ("ViT-SO400M-14-SigLIP", "webli"),
    "vit_so400m_patch14_siglip_384.webli": ("ViT-SO400M-14-SigLIP-384", "webli"),
    "vit_base_patch32_siglip_256.v2_webli": ("ViT-B-32-SigLIP2-256", "webli"),
    "vit_base_patch16_siglip_224.v2_webli": ("ViT-B-16-SigLIP2", "webli"),
    "vit_base_patch16_siglip_256.v2_webli": ("ViT-B-16-SigLIP2-256", "webli"),
    "vit_base_patch16_siglip_384.v2_webli": ("ViT-B-16-SigLIP2-384", "webli"),
    "vit_base_patch16_siglip_512.v2_webli": ("ViT-B-16-SigLIP2-512", "webli"),
    "vit_large_patch16_siglip_256.v2_webli": ("ViT-L-16-SigLIP2-256", "webli"),
    "vit_large_patch16_siglip_384.v2_webli": ("ViT-L-16-SigLIP2-384", "webli"),
    "vit_large_patch16_siglip_512.v2_webli": ("ViT-L-16-SigLIP2-512", "webli"),
    "vit_so400m_patch14_siglip_224.v2_webli": ("ViT-SO400M-14-SigLIP2", "webli"),
    "vit_so400m_patch14_siglip_378.v2_webli": ("ViT-SO400M-14-SigLIP2-378", "webli"),
    "vit_so400m_patch16_siglip_256.v2_webli": ("ViT-SO400M-16-SigLIP2-256", "webli"),
    "vit_so400m_patch16_siglip_384.v2_webli": ("ViT-SO400M-16-SigLIP2-384", "webli"),
    "vit_so400m_patch16_siglip_512.v2_webli": ("ViT-SO400M-16-SigLIP2-512", "webli"),
    "vit_giantopt_patch16_siglip_256.v2_webli": ("ViT-gopt-16-SigLIP2-256", "webli"),
    "vit_giantopt_patch16_siglip_384.v2_webli": ("ViT-gopt-16-SigLIP2-384", "webli"),
}


@torch.inference_mode()
def text_embeddings(
    teacher: str,
    class_names: Sequence[str],
    weights: Mapping[str, Path] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Tensor:
    """Embed class names as unit vectors (classes, k) in the space of the teacher's summary.

    A class is the direction of the mean of its prompts' unit vectors. Source: the ensembles of CLIP (arXiv 2103.00020).

    Args:
        teacher: Name of the teacher.
        class_names: The classes.
        weights: Safetensors files by the teacher's name; the hub has the others.
        progress: Called with (stage, done, total).

    Raises:
        TeacherError: The teacher has no text tower, or open_clip or the weights are missing.
    """
    tower, tokenize = text_tower(teacher, file_for(teacher, weights or {}))
    at_once = max(1, TEXT_BATCH // len(TEMPLATES))
    parts = []
    for i in range(0, len(class_names), at_once):
        prompts = [template.format(label) for label in class_names[i : i + at_once] for template in TEMPLATES]
        embeddings = F.normalize(tower.encode_text(tokenize(prompts)).float(), dim=-1)
        parts.append(embeddings.reshape(-1, len(TEMPLATES), embeddings.shape[-1]).mean(1))
        progress(f"class names for {teacher}", min(i + at_once, len(class_names)), len(class_names))
    return F.normalize(torch.cat(parts), dim=-1)


def zero_shot(image_embeddings: Tensor, texts: Tensor) -> Tensor:
    """Find the nearest class by cosine: embeddings (N, k) and `text_embeddings` (classes, k) to classes (N,)."""
    return (F.normalize(image_embeddings.float(), dim=-1) @ texts.to(image_embeddings.device).T).argmax(-1)


def text_tower(name: str, file: Path | None) -> tuple[Any, Any]:
    """Load open_clip's model, in eval mode on the CPU, and its tokenizer, for the teacher of this name."""
    network = parse(name).network
    if network not in TEXT_TOWERS:
        raise TeacherError(f"teacher {name}: no text tower of {network} is known; zero-shot needs a CLIP or SigLIP")
    try:
        import open_clip  # type: ignore[import-not-found,import-untyped]
    except ImportError:
        raise TeacherError(f"teacher {name}: its text tower needs open_clip: pip install open_clip_torch") from None
    model_name, tag = TEXT_TOWERS[network]
    repository = open_clip.get_pretrained_cfg(model_name, tag).get("hf_hub", "").strip("/")
    if file is None:
        file = hub_file(name, repository, OPEN_CLIP_FILE)
    elif not any(TEXT_TENSORS.search(key) for key in tensor_shapes(local_file(name, file), f"teacher {name}: {file}")):
        both = f"{repository}/{OPEN_CLIP_FILE} of the hub" if repository else OPEN_CLIP_FILE
        raise TeacherError(f"teacher {name}: {file} has no text tower; {both} has both towers")
    try:
        with _quiet_root_logger(), _tokenizer_here(name, open_clip.get_model_config(model_name)):
            tokenize = open_clip.get_tokenizer(model_name)  # SigLIP's comes from the hub, through transformers
            # open_clip reads a safetensors file as such, never as a pickle; `local_file` checks that it is one.
            model = open_clip.create_model(model_name, pretrained=str(local_file(name, file)))
    except (RuntimeError, KeyError, OSError, ImportError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TeacherError(f"teacher {name}: no text tower {model_name} from {file}: {reason}") from error
    return model.eval(), tokenize


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep open_clip's calls of `logging.info` from giving the root logger a handler.

    Such a handler would show every line of a search a second time, until its end.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _tokenizer_here(name: str, config: Mapping[str, Any] | None) -> Iterator[None]:
    """Fetch the tokenizer of a text tower that takes one from the hub, and keep transformers from asking the hub again.

    transformers asks for several files, and tries each for half a minute where there is no network.
    """
    repository = (config or {}).get("text_cfg", {}).get("hf_tokenizer_name", "")
    if not repository or find_spec("transformers") is None:
        yield
        return
    if cached_hub_file(repository, TOKENIZER_FILE) is None:
        try:
            hub_bytes(name, repository, TOKENIZER_FILE)
        except TeacherError as error:
            raise TeacherError(
                f"teacher {name}: the tokenizer of its text tower is in no cache of the hub here, and the hub gives"
                f" none; where it does: hf download {repository} --include 'tokenizer*'; copy it, and set HF_HOME"
            ) from error
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
