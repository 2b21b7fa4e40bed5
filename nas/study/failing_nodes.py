"""Nodes on which trials fail one after the other while trials elsewhere get on: they are left out for a while. Pure.

A full /tmp, a stale handle of NFS or a broken GPU fails every trial in seconds, so such a node would take one candidate
after the other. Each of them runs again on another node. After three in a row, during which another node has sent a
result, the node gets no trial for ten minutes, and for twice as long after each further failure. A trial that reaches a
rung on it clears it. Where all nodes fail, the cause is not theirs, and none is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from nas.study.failures import OF_ITS_NODE, Failure
from nas.study.records import TrialRecord, TrialState

_MAX_IN_A_ROW = 3
_PAUSE_S = 600.0
_MAX_DOUBLINGS = 10  # a pause of a week


@dataclass
class _Node:
    """The failures on a node since a trial last reached a rung there."""

    count: int = 0
    causes: set[Failure] = field(default_factory=set)
    result_elsewhere: bool = False  # since the first of them
    until_s: float = 0.0  # end of its pause
    reason: str = ""


class FailingNodes:
    """The failures of one session's trials by the nodes that ran them."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}  # those with failures since a trial last reached a rung there
        self._places: dict[int, str] = {}  # the node of each trial whose worker has sent a record and not its failure

    def note(self, record: TrialRecord, now_s: float) -> None:
        """Note a record that a worker sent at `now_s`; a failure that only its architecture explains says nothing."""
        name = node_of(record)
        if name is None:
            return
        self._places[record.number] = name
        if record.state is TrialState.FAILED:
            del self._places[record.number]  # it may run again elsewhere
        if record.state is not TrialState.FAILED:
            if record.rungs:
                self._nodes.pop(name, None)
            for other, node in self._nodes.items():
                node.result_elsewhere |= other != name and bool(record.rungs or record.measurement)
        elif record.failure in OF_ITS_NODE:
            node = self._nodes.setdefault(name, _Node())
            node.count += 1
            node.causes.add(record.failure)
            if node.count >= _MAX_IN_A_ROW and node.result_elsewhere:
                pause_s = _PAUSE_S * 2 ** min(node.count - _MAX_IN_A_ROW, _MAX_DOUBLINGS)
                node.until_s = now_s + pause_s
                node.reason = (
                    f"for {pause_s / 60:.0f} minutes, because the last {node.count} trials failed there while others "
                    f"got on elsewhere; the last: {record.reason}"
                )

    def met_elsewhere(self, record: TrialRecord) -> bool:
        """Return whether a trial on another node has failed for the same cause, since one last reached a rung there."""
        return any(record.failure in node.causes for name, node in self._nodes.items() if name != node_of(record))

    def left_out(self, now_s: float) -> dict[str, str]:
        """Return the nodes that get no trial at `now_s`, and why."""
        return {name: node.reason for name, node in self._nodes.items() if now_s < node.until_s}

    def still_running(self, running: Collection[int], now_s: float) -> Counter[str]:
        """Return how many of the running trials, by their numbers, are on each node that gets no further ones."""
        left_out, places = self.left_out(now_s), (self._places.get(number) for number in running)
        return Counter(name for name in places if name in left_out)


def node_of(record: TrialRecord) -> str | None:
    """Return the node of the worker that ran a trial last; None while no worker has."""
    return None if record.worker is None else record.worker.partition(":")[0]


def node_to_avoid(record: TrialRecord) -> str | None:
    """Return the node that a trial which runs again had better not run on; None for any."""
    return node_of(record) if record.failure in OF_ITS_NODE else None
