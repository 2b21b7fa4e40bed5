"""The journal of a study on a cluster: one line for every event of a trial, written by its worker."""

from __future__ import annotations

from pathlib import Path


def journal(run: Path) -> list[list[str]]:
    """Return the lines of the journal: architecture, try, node, process, event."""
    path = run / "journal"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def nodes_of(run: Path) -> set[str]:
    """Return the nodes on which trials began."""
    return {node for _, _, node, _, what in journal(run) if what == "begins"}


def begun_again(run: Path) -> list[str]:
    """Return the architectures that a worker began although they were finished."""
    over, again = set(), []
    for arch_id, _, _, _, what in journal(run):
        if what == "stored":
            over.add(arch_id)
        elif what == "begins" and arch_id in over:
            again.append(arch_id)
    return again
