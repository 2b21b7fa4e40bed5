"""Weights of timm networks: safetensors, from the hub or a file of the user's. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from nas.teachers.base import TeacherError

SAFE = ".safetensors"
TIMM_FILE = "model.safetensors"  # timm's own repositories call it so, CLIP's image towers included
OPEN_CLIP_FILE = "open_clip_model.safetensors"  # both towers of a CLIP
CONVERT = "import torch, safetensors.torch as s; s.save_file(torch.load('IN', weights_only=True), 'OUT.safetensors')"


def given(name: str, files: Mapping[str, Path]) -> Path | None:
    """The file given for a teacher, by its name with or without ``@PX/N``; None where there is none."""
    return files.get(name, files.get(name.partition("@")[0]))


def local_file(name: str, path: Path) -> Path:
    """`path`, once it is known to be a safetensors file; TeacherError says what is wrong with it."""
    if not path.is_file():
        raise TeacherError(f"--teacher {name}={path}: no such file")
    if path.suffix != SAFE:
        raise TeacherError(
            f"--teacher {name}={path}: must be a {SAFE} file, others can run code when read; if you trust it,"
            f' convert it: python -c "{CONVERT}"'
        )
    tensor_names(name, path)
    return path


def hub_file(name: str, repository: str | None, filename: str = TIMM_FILE) -> Path:
    """A safetensors file of a hub repository ("owner/name" or "owner/name@revision"), fetched once, then kept.

    Raises TeacherError where it cannot be had; it names the flag for a local file.
    """
    instead = f"give a local file with --teacher {name}=FILE"
    if not repository:
        raise TeacherError(f"teacher {name}: timm knows no hub repository of its weights; {instead}")
    hub_id, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(hub_id, filename, revision=revision or None))
    except LocalEntryNotFoundError:
        raise TeacherError(f"teacher {name}: the hub cannot be reached for {hub_id}/{filename}; {instead}") from None
    except EntryNotFoundError:
        raise TeacherError(f"teacher {name}: {hub_id} holds no {filename}, pickles are not read; {instead}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise TeacherError(f"teacher {name}: cannot fetch {hub_id}/{filename} ({reason}); {instead}") from error


def tensor_names(name: str, path: Path) -> list[str]:
    """Names of the tensors in a safetensors file, without reading them; TeacherError where it isn't one."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise TeacherError(f"--teacher {name}={path}: not a readable {SAFE} file ({error})") from error
