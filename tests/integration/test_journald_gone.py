# SPDX-License-Identifier: MIT
"""While journald is gone entries wait, in order; what there is no room for is told of, and the ledger has it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.actor import Actor
from tests.integration.journald import PrivateJournald
from tests.integration.ledger import PREFIX, TERMS, check_end, check_sums, read_metrics
from tests.integration.running import Entry, RunningDaemon, of

# Nobody else's processes, nor the journald that is killed: then the hold holds what the test thinks.
ONLY_OURS = f"""
capture: {{events: [exit]}}
log: {{unmatched: drop}}
rules: [{{name: ours, match: {{ppid: {os.getpid()}, exit-code|gte: 0}}}}]
"""
SMALL_HOLD = ("-m", "tests.integration.small_hold")


def run_processes(steps: str, numbers: range) -> list[int]:
    """So many processes one after the other, each with its number as exit code; their PIDs."""
    pids = []
    for number in numbers:
        with Actor(steps, "exit", str(number)) as actor:
            actor.end()
        pids.append(actor.pid)
    return pids


def numbers_of(entries: list[Entry]) -> list[int]:
    return [int(entry[f"{PREFIX}EXIT_CODE"]) for entry in entries if f"{PREFIX}EXIT_CODE" in entry]


def wait_until_decided(daemon: RunningDaemon, directory: Path, count: int) -> dict[str, int]:
    """Wait until so many of our events have left the rules, written or not; the metrics then."""
    metrics: dict[str, int] = {}

    def is_there() -> bool:
        daemon.process.send_signal(signal.SIGUSR1)
        if (directory / "run" / "metrics.prom").exists():
            metrics.update(read_metrics(directory))
            check_sums({term: metrics[term] for term in TERMS})
        held = metrics.get("PENDING", 0)
        return metrics.get("LOGGED", 0) + metrics.get("UNWRITTEN", 0) + held >= count

    assert daemon.wait_until(is_there), metrics
    return metrics


def test_entries_wait_for_journald_in_order(tmp_path: Path, journald: PrivateJournald, steps: str) -> None:
    with RunningDaemon(tmp_path, ONLY_OURS, journald=journald) as daemon:
        first = run_processes(steps, range(10))
        daemon.wait_entry(of("exit", pid=first[-1]))
        journald.kill()
        run_processes(steps, range(10, 50))
        journald.start()
        last = run_processes(steps, range(50, 60))
        daemon.wait_entry(of("exit", pid=last[-1]))
        assert daemon.stop() == 0
        assert numbers_of(daemon.entries) == list(range(60))
        terms = check_end(daemon.entries[-1])
        assert (terms["UNWRITTEN"], terms["LOST"], terms["LOGGED"]) == (0, 0, 60)


def test_what_cannot_wait_is_counted_and_told(tmp_path: Path, journald: PrivateJournald, steps: str) -> None:
    with RunningDaemon(tmp_path, ONLY_OURS, journald=journald, program=SMALL_HOLD) as daemon:
        daemon.wait_entry(of("start"))
        journald.kill()
        run_processes(steps, range(100))
        wait_until_decided(daemon, tmp_path, 100)
        journald.start()
        loss = daemon.wait_entry(of("loss"))
        assert loss[f"{PREFIX}LOST_WHERE"] == "journal"
        assert str(loss["PRIORITY"]) == "4"
        assert int(loss[f"{PREFIX}SINCE_USEC"]) <= int(loss[f"{PREFIX}UNTIL_USEC"])
        assert daemon.stop() == 0
        written = numbers_of(daemon.entries)
        assert 0 < len(written) < 100
        # Those that came first had room; a shorter one may have found some later.
        assert written[:10] == list(range(10))
        assert written == sorted(set(written))
        terms = check_end(daemon.entries[-1])
        assert terms["UNWRITTEN"] == 100 - len(written)
        assert terms["LOGGED"] == len(written)
        told = sum(int(one[f"{PREFIX}COUNT"]) for one in daemon.having(of("loss")))
        assert told >= terms["UNWRITTEN"]
