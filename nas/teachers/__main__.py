"""``python -m nas.teachers``: records the built-in teachers' activations anew, whatever was recorded before."""

from __future__ import annotations

import json

from nas.files import atomic_write
from nas.teachers import TEACHERS
from nas.teachers.base import RECORDED, activation_fingerprint


def main() -> int:
    """Write the file and return the exit code."""
    RECORDED.write_text("{}")  # nothing to compare with while they are loaded
    entries = {
        name: {"fingerprint": spec.fingerprint, "numbers": activation_fingerprint(spec.load())}
        for name, spec in TEACHERS.items()
    }
    atomic_write(RECORDED, json.dumps(entries, indent=1) + "\n")
    print(RECORDED)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
