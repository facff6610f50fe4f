# SPDX-License-Identifier: MIT
"""One PID, hundreds of lives: each life's entries carry its own data, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.conftest import EVERYTHING
from tests.integration.running import Entry, RunningDaemon, about, of

PREFIX = "PROCWATCH_"
ROUNDS = 1500


def number_of(entry: Entry) -> int | None:
    """The number in the arguments, as far as they are those of a life."""
    words = entry.get(f"{PREFIX}CMDLINE", "").split(" ")
    return int(words[2]) if words[1:2] == ["life"] else None


def test_no_life_is_told_of_another(tmp_path: Path, helpers: Path) -> None:
    with RunningDaemon(tmp_path, EVERYTHING) as daemon:
        ran = subprocess.run(
            [helpers / "reuse", str(ROUNDS)], check=True, capture_output=True, text=True, timeout=60
        )
        pid = int(ran.stdout)
        # One more: the one that came and went to find the PID.
        daemon.wait_entries(of("exit", pid=pid), ROUNDS + 1)
        entries = daemon.having(about(pid))
    executed = [one for one in entries if one[f"{PREFIX}EVENT"] == "exec"]
    assert len(executed) == ROUNDS
    told = 0
    for number, entry in enumerate(executed):
        found = number_of(entry)
        assert found in (None, number), entry
        told += found is not None
        if found is None:
            # Nor is it told of the next life as that was before its own exec: a fork of `reuse`.
            assert f"{PREFIX}CMDLINE" not in entry, entry
            assert entry[f"{PREFIX}IDENTITY"] in ("gone", "reused", "unknown"), entry
    # Those that stay a moment can be read, mostly: else this would be a test of nothing.
    assert told > ROUNDS // 10
    ended = [one for one in entries if one[f"{PREFIX}EVENT"] == "exit"][1:]
    for number, entry in enumerate(ended):
        assert number_of(entry) in (None, number), entry
    ids = [one[f"{PREFIX}PROCESS_ID"] for one in entries if one[f"{PREFIX}EVENT"] == "fork"]
    assert len(set(ids)) == ROUNDS + 1
    by_exit = [one[f"{PREFIX}PROCESS_ID"] for one in ended]
    assert len(set(by_exit)) == ROUNDS
