"""Small real files: images, masks, tar shards."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(os.environ.get("BACKBONE_NAS_SHARED", Path(__file__).parents[3].parent / "shared")) / "data"


def png(value: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """A picture of one color."""
    buffer = io.BytesIO()
    Image.new(mode, size, (value, value, value) if mode == "RGB" else value).save(buffer, "png")
    return buffer.getvalue()


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    """Key -> field -> content as an uncompressed tar."""
    with tarfile.open(path, "w") as tar:
        for key, fields in samples.items():
            for field, content in fields.items():
                info = tarfile.TarInfo(f"{key}.{field}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def whole(shard: Path) -> str:
    """The URI of a shard all of whose samples are in both splits: it has a second name, as no path may be in both."""
    other = shard.parent / "held_out" / shard.name
    other.parent.mkdir(exist_ok=True)
    if not other.exists():
        os.link(shard, other)
    return f"webdataset:{shard}::{other}"
