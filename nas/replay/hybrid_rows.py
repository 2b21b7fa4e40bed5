"""The published table of hybrid backbones: one row for each evaluation of an architecture of the space laptop.

```python
from nas.replay.hybrid_rows import hybrid_table

rows = hybrid_table()
rows.groupby("arch_id")["score"].mean().nlargest(5)
```
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.validation import ConfigError

if TYPE_CHECKING:
    import pandas as pd

TABLE, HORIZON = (Path(__file__).parent / f"{name}_table.json.gz" for name in ("hybrid", "horizon"))
EXPECTED = "a table as experiments.hybrid_table makes it, a .json.gz file"


def hybrid_table(path: str | Path | None = None) -> pd.DataFrame:
    """Return a table as a data frame, one row an evaluation; its columns are named as those of `Study.dataframe`.

    `spec_json` is the architecture (`ArchSpec.from_dict(json.loads(text))`), `rung0/score` the score of the first rung
    and `score` that of the last, `score/hed/spatial` the last explained variance of a teacher's head, `metric/edge_ap`
    a metric after the last rung, `stage/stem_s` the seconds of a stage in a batch of 16 images.

    Args:
        path: File of the table; None: the published one.

    Raises:
        ConfigError: There is no such file, or it is no table.
    """
    import pandas as pd

    rows = read_rows(path)
    try:
        return pd.DataFrame([_flat(row) for row in rows])
    except (LookupError, TypeError, ValueError) as error:
        raise not_a_table(path, error) from error


def horizon_table() -> pd.DataFrame:
    """Return the published trainings of 2,700 steps, one row each, with the columns of `hybrid_table`, but no timings.

    `images` is the number of training images; there are five rungs.
    """
    return hybrid_table(HORIZON)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    own = ("arch_id", "seed", "source", "state", "images", "macs", "params")
    flat = {name: row[name] for name in own if name in row}
    flat["spec_json"] = json.dumps(row["spec"], sort_keys=True)
    if "ratio" in row:
        names = ("times_reference", "times_reference_low", "times_reference_high")
        flat |= {f"measurement/{name}": value for name, value in zip(names, row["ratio"], strict=True)}
        flat |= {"measurement/throughput_img_s": row["img_s"], "measurement/latency_ms": row["latency_ms"]}
        flat["measurement/verdict"] = row["verdict"]
        flat |= {f"stage/{name}_s": ms / 1e3 for name, ms in row.get("stages_ms", {}).items()}
    for rung, (score, seconds) in enumerate(zip(row["scores"], row.get("seconds", ()), strict=True)):
        flat |= {f"rung{rung}/score": score, f"rung{rung}/train_s": seconds, "score": score}
    for teacher, heads in row.get("teachers", [{}])[-1].items():
        for head, value in zip(("summary", "spatial"), heads, strict=True):
            if value is not None:
                flat[f"score/{teacher}/{head}"] = value
    return flat | {f"metric/{name}": value for name, value in row.get("metrics", {}).items()}


def read_rows(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table in the order of their evaluation.

    Args:
        path: File of the table; None: the published one.

    Raises:
        ConfigError: There is no such file, or it is no gzip file of JSON.
    """
    file = TABLE if path is None else Path(path)
    if not file.is_file():
        raise ConfigError(f"--table: no such file: {str(file)!r}; expected {EXPECTED}")
    try:
        rows: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise not_a_table(path, error) from error
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise not_a_table(path, TypeError("it has no list of rows"))
    return rows


def not_a_table(path: str | Path | None, error: Exception) -> ConfigError:
    """Return the error about a file that has something else."""
    return ConfigError(f"--table: {path or TABLE} is not {EXPECTED}: {error}")
