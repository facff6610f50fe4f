# SPDX-License-Identifier: MIT
"""Over a restart nothing is lost and nothing is doubled; over a kill what was in hand is lost, and counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.daemon import MARKS
from procwatchd.kernel import wire
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.marks import Marks
from tests.integration.actor import Actor, process_id
from tests.integration.journald import PrivateJournald
from tests.integration.ledger import check_end
from tests.integration.running import Entry, FdStore, RunningDaemon, of
from tests.integration.test_blindness import deafen
from tests.integration.test_recorder import wait_for

PAUSE_SECONDS = 0.01
FORKS = 40
MANY = 600
KEPT = "connector accounting recorder table"

CONFIG = f"""
capture: {{events: [exec, exit]}}
rules:
  - name: others
    match: {{not: {{ancestor.pid: {os.getpid()}}}}}
    action: drop
"""

EVERYTHING = "capture: {events: all, threads: on}\nlog: {limit: off}\n"


class Load:
    """Processes that start and end all the time, each with arguments and a status of its own."""

    def __init__(self) -> None:
        self.started = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Start no more; the last one has ended."""
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            number = self.started
            subprocess.run(["/bin/sh", "-c", f"exit {number % 100}", f"load-{number}"], check=False)
            self.started += 1
            time.sleep(PAUSE_SECONDS)


@pytest.fixture
def store() -> Iterator[FdStore]:
    with contextlib.closing(FdStore()) as store:
        yield store


def number_of(entry: Entry) -> int:
    return int(entry["PROCWATCH_CMDLINE"].rsplit("load-")[1])


def told(entries: list[Entry], event: str) -> list[Entry]:
    return [entry for entry in entries if of(event)(entry) and "load-" in entry.get("PROCWATCH_CMDLINE", "")]


def assert_each_once(entries: list[Entry], started: int) -> None:
    """Each process of the load has one entry for its start and one for its end, and both are of one life."""
    starts = {number_of(entry): entry["PROCWATCH_PROCESS_ID"] for entry in told(entries, "exec")}
    ends = {number_of(entry): entry for entry in told(entries, "exit")}
    assert sorted(map(number_of, told(entries, "exec"))) == list(range(started))
    assert sorted(map(number_of, told(entries, "exit"))) == list(range(started))
    for number, end in ends.items():
        assert (end["PROCWATCH_PROCESS_ID"], end["PROCWATCH_EXIT_CODE"]) == (
            starts[number],
            str(number % 100),
        )


def live(tmp_path: Path, config: str, store: FdStore) -> RunningDaemon:
    return RunningDaemon(tmp_path / "d", config, store=store)


def test_over_a_restart_nothing_is_lost_or_doubled(tmp_path: Path, store: FdStore) -> None:
    entries: list[Entry] = []
    kept = []
    load = Load()
    with contextlib.ExitStack() as until_stopped:
        for _ in range(4):
            with live(tmp_path, CONFIG, store) as daemon:
                kept.append(daemon.wait_entry(of("start")).get("PROCWATCH_KEPT"))
                if len(kept) == 1:
                    until_stopped.enter_context(load)
                time.sleep(0.5)
                assert daemon.stop() == 0
                entries += daemon.entries
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.wait_entry(lambda entry: f"load-{load.started - 1}" in entry.get("PROCWATCH_CMDLINE", ""))
        daemon.stop()
        entries += daemon.entries
    assert kept == [None, KEPT, KEPT, KEPT]
    assert_each_once(entries, load.started)
    assert [entry["MESSAGE"] for entry in entries if of("loss")(entry)] == []
    assert all(entry["PROCWATCH_SOURCE"] == "recorder" for entry in told(entries, "exec"))
    for entry in filter(of("stop"), entries):
        check_end(entry)


def test_over_reloads_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "d", CONFIG) as daemon, Load() as load:
        for n in range(6):
            daemon.config.write_text(
                CONFIG.replace("capture: {", "capture: {threads: on, ") if n % 2 else CONFIG
            )
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_entries(of("reload"), n + 1)
            time.sleep(0.1)
        load.stop()
        daemon.stop()
    assert_each_once(daemon.entries, load.started)
    assert [entry["MESSAGE"] for entry in daemon.entries if of("loss")(entry)] == []


def test_what_another_version_knew_is_learned_again(tmp_path: Path, store: FdStore) -> None:
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.stop()
        entries = list(daemon.entries)
    with Load() as load:
        with live(tmp_path, CONFIG, store) as daemon:
            time.sleep(0.3)
            daemon.stop()
            entries += daemon.entries
        time.sleep(0.3)
        os.truncate(store.fds["state"], 20)
        with live(tmp_path, CONFIG, store) as daemon:
            assert daemon.wait_entry(of("start"))["PROCWATCH_KEPT"] == "connector accounting recorder"
            time.sleep(0.3)
            daemon.stop()
            entries += daemon.entries
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.stop()
        entries += daemon.entries
    assert_each_once(entries, load.started)
    for entry in filter(of("stop"), entries):
        check_end(entry)


def test_who_lived_is_known_after_a_restart(tmp_path: Path, store: FdStore) -> None:
    # Whoever ended before is in /proc no more, and still the parent of one who lives.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with live(tmp_path, CONFIG, store) as daemon:
        parent = subprocess.Popen(["/bin/sh", "-c", f"cat {fifo} & :", "the-parent"])
        parent.wait()
        daemon.wait_entry(of("exit", pid=parent.pid))
        daemon.stop()
    fifo.write_bytes(b"")
    with live(tmp_path, CONFIG, store) as daemon:
        end = daemon.wait_entry(of("exit", ppid=parent.pid))
    assert end["PROCWATCH_CMDLINE"] == f"cat {fifo}"
    assert end["PROCWATCH_PARENT_CMDLINE"].endswith("the-parent")


def test_who_was_not_heard_any_more_meanwhile_says_so(
    tmp_path: Path, store: FdStore, helpers: Path, steps: str
) -> None:
    with Actor(steps, "wait", "exit", "5") as actor:
        actor.reached()
        with live(tmp_path, CONFIG, store) as daemon:
            daemon.stop()
        deafen(helpers)
        since_usec = time.monotonic_ns() // 1000
        ended = process_id(actor.pid)
        actor.go()
        actor.end()
        until_usec = time.monotonic_ns() // 1000
        with live(tmp_path, CONFIG, store) as daemon:
            start = daemon.wait_entry(of("start"))
            blind = daemon.wait_entry(lambda one: of("blind")(one) and "PROCWATCH_UNTIL_USEC" in one)
            assert (
                int(blind["PROCWATCH_SINCE_USEC"])
                < since_usec
                < until_usec
                < int(blind["PROCWATCH_UNTIL_USEC"])
            )
            assert "PROCWATCH_COUNT" not in blind
            assert int(start["PROCWATCH_SINCE_USEC"]) < since_usec
            assert start["PROCWATCH_KEPT"] == "accounting recorder table"
            assert daemon.wait_entry(of("exit", process_id=ended))["PROCWATCH_RESYNC"] == "1"
            with Actor(steps, "exit", "8") as another:
                another.end()
            assert daemon.wait_entry(of("exit", pid=another.pid))["PROCWATCH_EXIT_CODE"] == "8"


def test_forks_that_were_not_told_meanwhile_are_noticed(
    tmp_path: Path, store: FdStore, helpers: Path
) -> None:
    """Somebody broke the count of listeners, and another listener mended it, before there was a daemon again."""
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.stop()
    deafen(helpers)
    for _ in range(FORKS):
        subprocess.run(["/bin/true"], check=True)
    other = Connector()
    other.subscribe()
    with contextlib.closing(other), live(tmp_path, CONFIG, store) as daemon:
        known = int(daemon.statistics()["PROCWATCH_FORKS_MISSED"])
        missed = int(daemon.statistics()["PROCWATCH_FORKS_MISSED"])
        assert known <= missed
        assert missed >= FORKS
        blind = daemon.wait_entry(of("blind"))
        assert int(blind["PROCWATCH_COUNT"]) >= FORKS


def test_of_one_killed_while_nothing_happened_nothing_is_lost(
    tmp_path: Path, store: FdStore, steps: str
) -> None:
    with live(tmp_path, CONFIG, store) as daemon:
        with Actor(steps, "exit", "3") as actor:
            actor.end()
        daemon.wait_entry(of("exit", pid=actor.pid))
        marks = Marks(os.dup(store.fds[MARKS]))
        # On a machine where others do something, that is at times in hand.
        assert daemon.wait_until(lambda: marks.in_hand == 0)
        daemon.process.kill()
        daemon.process.wait()
        in_hand = marks.in_hand
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.wait_entry(of("resync"))
        daemon.stop()
    told = [int(entry["PROCWATCH_COUNT"]) for entry in daemon.entries if of("loss")(entry)]
    assert told == ([in_hand] if in_hand else [])


def test_the_end_of_who_had_lost_its_leader_is_told_after_a_kill(
    tmp_path: Path, store: FdStore, steps: str
) -> None:
    with Actor(steps, "wait", "leader-ends", "wait", "exit", "5") as actor:
        actor.reached()
        with live(tmp_path, CONFIG, store) as daemon:
            actor.go()
            actor.reached()
            # It is told no more than that by now.
            daemon.statistics()
            daemon.process.kill()
            daemon.process.wait()
        ended = actor.pid
        actor.go()
        actor.end()
        with live(tmp_path, "capture: {events: [exit]}", store) as daemon:
            end = daemon.wait_entry(of("exit", pid=ended))
        assert (end["PROCWATCH_EXIT_CODE"], end["PROCWATCH_RESYNC"]) == ("5", "1")


def test_what_the_queue_lost_is_not_told_again(tmp_path: Path, store: FdStore) -> None:
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.stop()
    words = Marks(os.dup(store.fds[MARKS])).words
    for lost in (Marks.QUEUE_RECORDS, Marks.RECORDS_LOST, Marks.QUEUE_EXECS, Marks.EXECS_LOST):
        words[lost] = 5
    without = CONFIG.replace("capture: {", "capture: {accounting: off, arguments: proc, ")
    for config in (CONFIG, without, CONFIG):
        with live(tmp_path, config, store) as daemon:
            time.sleep(0.1)
            daemon.stop()
        assert not daemon.having(of("loss"))


def hold(store: FdStore, journald: PrivateJournald) -> Marks:
    """Have so much to write, while the journal takes nothing, that most of it is held."""
    os.kill(journald.pid, signal.SIGSTOP)
    script = f"i=0; while [ $i -lt {MANY} ]; do /bin/true held; i=$((i+1)); done"
    subprocess.run(["/bin/sh", "-c", script], check=True)
    marks = Marks(os.dup(store.fds[MARKS]))
    # The journal's socket has room for some; then the last of it comes.
    wait_for(lambda: marks.in_hand > MANY)
    time.sleep(1)
    return marks


def held(daemon: RunningDaemon) -> list[Entry]:
    return daemon.having(lambda entry: entry.get("PROCWATCH_CMDLINE") == "/bin/true held")


def test_what_is_written_at_the_very_end_is_not_lost(
    tmp_path: Path, store: FdStore, journald: PrivateJournald
) -> None:
    with RunningDaemon(tmp_path / "d", CONFIG, store=store, journald=journald) as daemon:
        hold(store, journald)
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        os.kill(journald.pid, signal.SIGCONT)
        assert daemon.process.wait(30) == 0
    with RunningDaemon(tmp_path / "d", CONFIG, store=store, journald=journald) as daemon:
        daemon.stop()
        assert len(held(daemon)) == 2 * MANY
        assert not daemon.having(of("loss"))


def test_what_was_held_of_one_killed_is_counted(
    tmp_path: Path, store: FdStore, journald: PrivateJournald
) -> None:
    with RunningDaemon(tmp_path / "d", CONFIG, store=store, journald=journald) as daemon:
        marks = hold(store, journald)
        daemon.process.kill()
        daemon.process.wait()
        in_hand = marks.in_hand
        os.kill(journald.pid, signal.SIGCONT)
    with RunningDaemon(tmp_path / "d", CONFIG, store=store, journald=journald) as daemon:
        loss = daemon.wait_entry(of("loss"))
        daemon.stop()
        assert int(loss["PROCWATCH_COUNT"]) == in_hand
        missing = 2 * MANY - len(held(daemon))
        assert 0 < missing <= in_hand
        # The rest are the ends of the shell and of what others did meanwhile.
        assert in_hand - missing < MANY // 10
        assert len(daemon.having(of("loss"))) == 1


def test_what_was_given_up_of_one_killed_is_counted(
    tmp_path: Path, store: FdStore, journald: PrivateJournald
) -> None:
    small = {"program": ("-m", "tests.integration.small_hold"), "store": store, "journald": journald}
    with RunningDaemon(tmp_path / "d", CONFIG, **small) as daemon:  # type: ignore[arg-type]
        marks = hold(store, journald)
        daemon.process.kill()
        daemon.process.wait()
        in_hand = marks.in_hand
        os.kill(journald.pid, signal.SIGCONT)
    with RunningDaemon(tmp_path / "d", CONFIG, **small) as daemon:  # type: ignore[arg-type]
        loss = daemon.wait_entry(of("loss"))
        daemon.stop()
        assert int(loss["PROCWATCH_COUNT"]) == in_hand
        assert 0 < 2 * MANY - len(held(daemon)) <= in_hand


def test_marks_without_their_socket_are_not_taken(tmp_path: Path, store: FdStore) -> None:
    with live(tmp_path, CONFIG, store) as daemon:
        daemon.stop()
    os.close(store.fds.pop("proc-connector"))
    before = os.fstat(store.fds[MARKS]).st_ino
    with live(tmp_path, CONFIG, store) as daemon:
        start = daemon.wait_entry(of("start"))
        assert os.fstat(store.fds[MARKS]).st_ino != before
    # Nor is anything else that belonged to it.
    assert "PROCWATCH_KEPT" not in start
    assert "PROCWATCH_SINCE_USEC" in start


def test_half_a_recorder_is_not_taken(tmp_path: Path, store: FdStore, steps: str) -> None:
    for part in ("counts", "link0of"):
        with live(tmp_path, CONFIG, store) as daemon:
            daemon.stop()
        name = next(name for name in store.fds if part in name)
        os.close(store.fds.pop(name))
        with live(tmp_path, CONFIG, store) as daemon:
            assert daemon.wait_entry(of("start"))["PROCWATCH_KEPT"] == "connector accounting table"
            with Actor(steps, "exit", "3") as actor:
                actor.end()
            assert daemon.wait_entry(of("exec", pid=actor.pid))["PROCWATCH_SOURCE"] == "recorder"


def test_what_was_in_hand_of_one_killed_is_counted(tmp_path: Path, store: FdStore) -> None:
    observer = Connector()
    observer.subscribe()
    entries: list[Entry] = []
    in_hand = []
    pids = set()
    with contextlib.closing(observer):
        with Load():
            for _ in range(4):
                with live(tmp_path, EVERYTHING, store) as daemon:
                    pids.add(daemon.pid)
                    time.sleep(0.5)
                    daemon.process.kill()
                    daemon.process.wait()
                    in_hand.append(Marks(os.dup(store.fds[MARKS])).in_hand)
                    daemon.stop(signal.SIGKILL)
                    entries += daemon.entries
        with live(tmp_path, EVERYTHING, store) as daemon:
            pids.add(daemon.pid)
            daemon.stop()
            entries += daemon.entries
        # Of itself no daemon tells.
        seen = Counter(key for key in observed(observer) if key[1] not in pids)
    losses = [entry for entry in entries if of("loss")(entry)]
    assert {entry["PROCWATCH_LOST_WHERE"] for entry in losses} <= {"restart"}
    assert [int(entry["PROCWATCH_COUNT"]) for entry in losses] == [count for count in in_hand if count]
    # Between the first and the last that both saw, each event is an entry or one that was in hand.
    keys = [key for entry in entries if (key := key_of(entry)) is not None]
    written = Counter(key for key in keys if key[1] not in pids)
    assert not written - seen, "an event is told twice"
    times = [key[2] for key in written]
    missing = [key for key in (seen - written).elements() if min(times) <= key[2] <= max(times)]
    assert len(missing) <= sum(in_hand)
    for _event, _pid, time_usec in missing:
        assert any(
            int(loss["PROCWATCH_SINCE_USEC"]) <= time_usec <= int(loss["PROCWATCH_UNTIL_USEC"])
            for loss in losses
        )


# What it is, of which process, and when.
Key = tuple[str, int, int]
_KINDS = {wire.FORK: "fork", wire.EXEC: "exec", wire.EXIT: "exit"}


def observed(observer: Connector) -> Iterator[Key]:
    """The forks, execs and exits that came."""
    while (received := observer.receive()) is not None:
        for event in wire.decode(received.datagrams)[0]:
            if event[5] in _KINDS:
                tgid = event[11] if event[5] == wire.FORK else event[9]
                yield _KINDS[event[5]], tgid, event[7] // 1000


def key_of(entry: Entry) -> Key | None:
    event, usec = entry["PROCWATCH_EVENT"], entry.get("PROCWATCH_MONOTONIC_USEC")
    if event not in _KINDS.values() or usec is None or "PROCWATCH_RESYNC" in entry:
        return None
    return event, int(entry["PROCWATCH_PID"]), int(usec)
