"""Faults of files of a finished study and its cache: a command must name the damaged file, or give the same output.

python -m experiments.chaos.damaged_files          run commands of the product that stdin has, as JSON lists
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from experiments.chaos.real_search import RealSearch, damage
from experiments.chaos.sandbox import Sandbox

KINDS = ("damaged weights", "damaged heads", "damaged cache, verified")


class CommandServer:
    """One process that runs many commands: PyTorch is imported once. It has no part in the checks."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._log = sandbox.folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(self._log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=sandbox.environment(), cwd=sandbox.folder / "cwd",
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        """Run one command; return its exit code and what it printed."""
        began = len(self._log.read_bytes()) if self._log.exists() else 0
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline() or -1)
        return code, self._log.read_bytes()[began:].decode(errors="replace")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def strike(search: RealSearch, kind: str, faults: int, chance: random.Random) -> tuple[list[str], list[str]]:
    """Damage one file at a time of a finished search; return the ways and the violations."""
    run, out = search.sandbox.run, search.sandbox.folder / "export"
    ending = ".heads.safetensors" if kind == "damaged heads" else ".safetensors"
    weights = [p for p in sorted((run / "weights").glob(f"*{ending}")) if p.name.count(".") == ending.count(".")]
    shards = sorted(search.sandbox.cache.rglob("*.npy"))
    server, right = CommandServer(search.sandbox), dict[str, str]()
    notes, violations = [], []
    for _ in range(faults):
        victim = chance.choice(shards if kind == KINDS[2] else weights)
        command = ["cache", "verify", "--cache", str(search.sandbox.cache)]
        if kind != KINDS[2]:
            trial = victim.name.partition(".")[0]
            command = ["export", str(run), "--trial", trial, "--format", "timm", "--heads", "all"]
            command += ["--out", str(out), "--overwrite"]
        if victim.name not in right:
            code, said = server.run(*command)
            if code:
                violations.append(f"undamaged: exit code {code}: {said[-300:]}")
            right[victim.name] = _digest(out)
        content = victim.read_bytes()
        notes.append(damage(victim, chance))
        code, said = server.run(*command)
        what = f"{victim.name}: {notes[-1]}: "
        if "Traceback" in said:
            violations.append(f"{what}traceback: {said[-300:]}")
        elif code and victim.name not in said:
            violations.append(f"{what}the file is not named: {said[-300:]}")
        elif not code and victim.read_bytes() != content and (kind == KINDS[2] or _digest(out) != right[victim.name]):
            violations.append(f"{what}not noticed")
        victim.write_bytes(content)
    server.close()
    return notes, violations


def _digest(folder: Path) -> str:
    """Return a hash of the exported tensors."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main(log: str) -> int:
    """Run the commands that stdin has, print their exit codes, and write what they print to a file."""
    from nas.__main__ import main as run

    answers = os.fdopen(os.dup(1), "w")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for line in sys.stdin:
        code = run(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        print(code, file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
