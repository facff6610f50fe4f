# SPDX-License-Identifier: MIT
"""Forks at full speed: all of them are accounted for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.ledger import check_end
from tests.integration.running import RunningDaemon

COUNT_THE_STORM = """
capture: {events: [fork]}
rules:
  - name: storm
    match: {parent.comm: storm}
    action: drop
"""


def test_a_vfork_storm_loses_nothing(tmp_path: Path, helpers: Path) -> None:
    with RunningDaemon(tmp_path, COUNT_THE_STORM) as daemon:
        ran = subprocess.run([helpers / "storm", "1000"], check=True, capture_output=True, text=True)
        forks = int(ran.stdout)
        assert daemon.stop() == 0
        terms = check_end(daemon.entries[-1])
    assert terms["LOST"] == terms["UNWRITTEN"] == 0
    assert forks > 1000
    assert terms["DROPPED"] == forks
