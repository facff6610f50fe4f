# SPDX-License-Identifier: MIT
"""Which threads of the real daemon run in real time."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.running import RunningDaemon

CONFIG = "capture: {{arguments: {}}}\nlog: {{unmatched: drop}}\n"


@pytest.mark.parametrize(
    ("arguments", "in_real_time"), [("recorder", 0), ("proc", 2), ("proc, hash: sha256", 2)]
)
def test_only_who_races_is_in_real_time(tmp_path: Path, arguments: str, in_real_time: int) -> None:
    """The listener and the worker where /proc is read in time for each exec, and nobody where that is recorded."""
    with RunningDaemon(tmp_path, CONFIG.format(arguments)) as daemon:

        def policies() -> Counter[int]:
            tids = map(int, os.listdir(f"/proc/{daemon.pid}/task"))
            return Counter(map(os.sched_getscheduler, tids))

        assert daemon.wait_until(lambda: policies()[os.SCHED_RR] == in_real_time), policies()
        threads = sum(policies().values())
        # The thread that hashes is started by one that is in real time.
        subprocess.run(["/bin/true"], check=True)
        assert daemon.wait_until(lambda: sum(policies().values()) > threads or "hash" not in arguments)
        assert daemon.wait_until(lambda: policies()[os.SCHED_RR] == in_real_time), policies()
        assert set(policies()) <= {os.SCHED_RR, os.SCHED_OTHER}
