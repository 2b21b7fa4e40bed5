"""What a process finds on its machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_a_process_counts_the_cpus_that_it_may_use() -> None:
    code = (
        "import os, sys; from nas.machine import cpu_count; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        " print(cpu_count(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
