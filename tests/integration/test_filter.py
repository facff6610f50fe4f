# SPDX-License-Identifier: MIT
"""What the kernel need not tell costs nothing, and what is needed is told, whatever is reloaded meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from procwatchd.kernel import taskstats, wire
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.filter import Needs
from tests.integration.actor import Actor, process_id, stat_fields
from tests.integration.ledger import PREFIX, check_end, check_sums, terms_of
from tests.integration.running import Entry, RunningDaemon, of

OURS_ALONE = f"rules: [{{name: others, match: {{not: {{ancestor.pid: {os.getpid()}}}}}, action: drop}}]"
RELOADS = 10
STORMS = 2
STORM_MS = 500


def threads(switch: str) -> str:
    return f"capture: {{events: [fork, exec, exit], threads: {switch}}}\n{OURS_ALONE}"


NEEDED = Needs(threads=False, ptrace=False, coredump=False, tasks=False)


def test_records_that_nobody_needs_do_not_come(steps: str) -> None:
    def tids(*way: str) -> list[tuple[bool, int]]:
        """Of each record of such a process: whether it is the leader's, and the status."""
        with Actor(steps, *way) as actor:
            if "wait" in way:
                actor.reached()
                while stat_fields(actor.pid)[0] != b"Z":
                    time.sleep(0.001)
                actor.go()
            actor.end()
        found = []
        while (received := accounting.receive()) is not None:
            found += taskstats.decode(received[0])[0]
        ours = [end for end in found if (end.tgid, end.ppid) == (actor.pid, os.getpid())]
        return [(end.tid == end.tgid, end.status) for end in ours]

    accounting = Accounting()
    try:
        assert tids("thread", "thread", "exit", "5") == [(False, 0), (False, 0), (True, 5 << 8)]
        accounting.narrow(NEEDED)
        assert tids("thread", "thread", "exit", "5") == [(True, 5 << 8)]
        assert tids("thread", "leader-ends", "wait", "exit", "0") == [(True, 0), (False, 0)]
        assert sorted(tids("in-thread", "exit", "6")) == [(False, 6 << 8), (True, 6 << 8)]
        accounting.narrow(Needs())
        assert len(tids("thread", "thread", "exit", "5")) == 3
    finally:
        accounting.close()


def test_events_that_nobody_needs_do_not_come(steps: str) -> None:
    def types_of(*way: str) -> list[int]:
        """The types of the events of such a process, but for its fork."""
        with Actor(steps, *way) as actor:
            actor.end()
        found = []
        while (received := connector.receive()) is not None:
            found += wire.decode(received.datagrams)[0]
        return [event[5] for event in found if event[5] != wire.FORK and event[9] == actor.pid]

    way = ("thread", "setsid", "comm", "name", "in-thread", "comm", "other", "uid", "65534", "exit", "0")
    connector = Connector()
    try:
        connector.narrow(NEEDED)
        connector.subscribe()
        # All threads change the user; each is told of.
        assert types_of(*way) == [wire.EXEC, wire.SID, wire.COMM, wire.UID, wire.UID, wire.EXIT]
        connector.narrow(Needs())
        assert sorted(types_of(*way)) == sorted(
            [wire.EXEC, *[wire.COMM] * 2, wire.SID, *[wire.UID] * 2, *[wire.EXIT] * 3]
        )
        assert connector.kernel_drops() == 0
    finally:
        connector.close()


def growth(daemon: RunningDaemon, before: dict[str, int]) -> dict[str, int]:
    """What the ledger has more than before."""
    after = terms_of(daemon.statistics())
    check_sums(after)
    return {name: after[name] - before[name] for name in after}


def test_a_thread_storm_costs_nothing(tmp_path: Path, helpers: Path) -> None:
    """With the defaults: what is left are the program's own events, and those of whatever else goes on."""
    with RunningDaemon(tmp_path, OURS_ALONE) as daemon:
        before = terms_of(daemon.statistics())
        command = [str(helpers / "threads"), str(STORM_MS)]
        storms = [
            subprocess.Popen([*command, str(code)], stdout=subprocess.PIPE, text=True)
            for code in range(7, 7 + STORMS)
        ]
        count = sum(int(storm.communicate()[0]) for storm in storms)
        for storm in storms:
            entry = daemon.wait_entry(of("exit", pid=storm.pid))
            assert entry[f"{PREFIX}EXIT_CODE"] == str(storm.returncode)
            assert entry[f"{PREFIX}EXIT_SOURCE"] == "taskstats"
            assert int(entry[f"{PREFIX}CPU_USEC"]) > 0
        more = growth(daemon, before)
        # A FORK and an EXIT of each.
        assert more["FILTERED"] >= 2 * count > 1000
        assert more["RECEIVED"] < more["FILTERED"] / 10
        assert more["LOST"] == 0
        assert int(daemon.statistics()[f"{PREFIX}ACCOUNTING_LOST"]) == 0
        assert daemon.stop() == 0
        check_end(daemon.entries[-1])


def test_where_threads_are_asked_for_nothing_is_rejected(tmp_path: Path, helpers: Path) -> None:
    config = "{capture: {events: all, threads: on}, log: {unmatched: drop}}"
    with RunningDaemon(tmp_path, config) as daemon:
        subprocess.run([helpers / "threads", "50", "0"], check=True, stdout=subprocess.DEVNULL)
        assert daemon.stop() == 0
        assert check_end(daemon.entries[-1])["FILTERED"] == 0


def test_an_end_is_told_once_the_last_thread_is_gone(tmp_path: Path, steps: str) -> None:
    """The EXIT of the leader is kept until then; also where nothing else happens, and at stop."""
    with (
        RunningDaemon(tmp_path, OURS_ALONE) as daemon,
        Actor(steps, "leader-ends", "wait", "uid", "65534", "exit", "5") as first,
        Actor(steps, "leader-exits", "9", "wait", "exit", "0") as second,
    ):
        for actor in (first, second):
            actor.reached()
        assert daemon.wait_until(lambda: terms_of(daemon.statistics())["PENDING"] >= 2)
        ended = process_id(first.pid)
        first.go()
        first.end()
        entry = daemon.wait_entry(of("exit", process_id=ended))
        changed = daemon.wait_entry(of("uid", process_id=ended))
        assert (entry[f"{PREFIX}EXIT_CODE"], entry[f"{PREFIX}UID"]) == ("5", "65534")
        # It is not the moment when the leader ended.
        assert int(entry[f"{PREFIX}MONOTONIC_USEC"]) > int(changed[f"{PREFIX}MONOTONIC_USEC"])
        assert f"{PREFIX}TID" not in changed
        assert f"{PREFIX}RESYNC" not in entry
        assert not daemon.having(of("exit", pid=second.pid))
        assert daemon.stop() == 0
        check_end(daemon.entries[-1])
        assert not daemon.having(of("exit", pid=second.pid))
        second.go()


def test_whose_leader_ended_before_the_daemon_began(tmp_path: Path, steps: str) -> None:
    with Actor(steps, "leader-ends", "wait", "exit", "5") as actor:
        actor.reached()
        ended = process_id(actor.pid)
        with RunningDaemon(tmp_path, OURS_ALONE) as daemon:
            actor.go()
            actor.end()
            entry = daemon.wait_entry(of("exit", process_id=ended))
            assert entry[f"{PREFIX}EXIT_CODE"] == "5"
            assert daemon.stop() == 0
            check_end(daemon.entries[-1])


class Load:
    """Processes that come and go until it is stopped, with threads and without; `expected` has each one's exit code."""

    def __init__(self, steps: str) -> None:
        self.expected: dict[str, str] = {}
        self._steps = steps
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        ways: list[list[str]] = [[], ["thread"], ["threads"], ["leader-ends"], ["in-thread"]]
        number = 0
        while not self._stopping:
            number += 1
            code = str(number % 200 + 1)
            with Actor(self._steps, *ways[number % len(ways)], "exit", code) as actor:
                ended = process_id(actor.pid)
                actor.end()
            self.expected[ended] = code


def kinds(entries: list[Entry]) -> dict[str, Counter[str]]:
    """How many entries of each kind there are on each life, but for its threads."""
    found: dict[str, Counter[str]] = {}
    for entry in entries:
        ended = entry.get(f"{PREFIX}PROCESS_ID")
        if ended is not None and f"{PREFIX}TID" not in entry:
            found.setdefault(ended, Counter())[entry[f"{PREFIX}EVENT"]] += 1
    return found


def exit_codes(entries: list[Entry]) -> dict[str, str]:
    """How each life ended; a thread's end is none."""
    exits = [entry for entry in entries if of("exit")(entry) and f"{PREFIX}TID" not in entry]
    return {
        entry[f"{PREFIX}PROCESS_ID"]: entry[f"{PREFIX}EXIT_CODE"]
        for entry in exits
        if f"{PREFIX}EXIT_CODE" in entry
    }


def test_a_reload_loses_no_event_of_a_process(tmp_path: Path, steps: str, helpers: Path) -> None:
    with RunningDaemon(tmp_path, threads("off")) as daemon:
        storm = subprocess.Popen([helpers / "threads", "600000", "0"], stdout=subprocess.DEVNULL)
        load = Load(steps)
        try:
            for n in range(RELOADS):
                known = len(load.expected)
                assert daemon.wait_until(lambda known=known: len(load.expected) > known + 20)  # type: ignore[misc]
                daemon.config.write_text(threads("off" if n % 2 else "on"))
                daemon.process.send_signal(signal.SIGHUP)
                daemon.wait_entries(of("reload"), n + 1)
        finally:
            load.stop()
            storm.kill()
            storm.wait()
        daemon.statistics()
        assert daemon.wait_until(lambda: set(load.expected) <= set(exit_codes(daemon.having(of("exit")))))
        assert daemon.stop() == 0
        terms = check_end(daemon.entries[-1])
        assert terms["LOST"] == 0
        assert terms["FILTERED"] > 0
        # Entries on threads show that they were asked for, in between.
        assert daemon.having(lambda entry: f"{PREFIX}TID" in entry)
        found = kinds(daemon.entries)
    wrong = {
        ended: found[ended] for ended in load.expected if found[ended] != {"fork": 1, "exec": 1, "exit": 1}
    }
    assert not wrong
