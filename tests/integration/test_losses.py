# SPDX-License-Identifier: MIT
"""What is lost is told: how much, when, of which CPUs; and what was missed is found."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from procwatchd.kernel.cpus import parse_cpus
from tests.integration.actor import Actor, process_id
from tests.integration.conftest import EVERYTHING
from tests.integration.ledger import PREFIX, check_end, check_sums, terms_of
from tests.integration.running import Entry, RunningDaemon, of

SMALL = "receive-buffer: 256K"
SMALL_BUFFER = EVERYTHING.replace("threads: on", SMALL)
# The kernel counts the forks of processes and threads.
COUNTED = "{capture: {threads: on}, log: {unmatched: drop}}"
DROP_ALL = f"capture: {{events: all, {SMALL}}}\nlog: {{unmatched: drop}}"


def number(entry: Entry, name: str) -> int:
    return int(entry[PREFIX + name])


@contextmanager
def deaf(daemon: RunningDaemon) -> Iterator[None]:
    """The daemon is stopped meanwhile, so that its small buffers overrun."""
    daemon.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.pid}/stat")
    assert daemon.wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"))
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def exits_of(daemon: RunningDaemon, ended: str) -> list[Entry]:
    return daemon.having(of("exit", process_id=ended))


def check_loss(daemon: RunningDaemon, resync: Entry, since_usec: int, until_usec: int) -> dict[str, int]:
    """A loss between these times is told with how many, when, and of which CPUs; gives the ledger after it."""
    loss = daemon.wait_entry(of("loss"))
    assert loss[f"{PREFIX}LOST_WHERE"] == "kernel"
    assert str(loss["PRIORITY"]) == str(resync["PRIORITY"]) == "4"
    # Of a CPU that had nothing to tell it begins with the last thing that was told.
    assert number(loss, "SINCE_USEC") < number(loss, "UNTIL_USEC") < until_usec
    assert since_usec < number(loss, "UNTIL_USEC")
    cpus = parse_cpus(loss[f"{PREFIX}CPUS"])
    assert cpus
    assert cpus <= set(range(os.cpu_count() or 1))
    assert number(resync, "SINCE_USEC") <= number(loss, "SINCE_USEC")
    terms = terms_of(daemon.statistics())
    check_sums(terms)
    assert terms["LOST"] == sum(number(one, "COUNT") for one in daemon.having(of("loss"))) > 4000
    return terms


def test_after_a_loss_the_record_has_everybody(tmp_path: Path, steps: str) -> None:
    with (
        RunningDaemon(tmp_path, SMALL_BUFFER) as daemon,
        Actor(steps, "wait", "exit", "21") as ends,
        Actor(steps, "in-thread", "wait", "exit", "22") as threaded,
        Actor(steps, "wait", "exec", "/bin/sleep", "1000") as execs,
        Actor(steps, "wait", "uid", "65534", "wait", "exit", "23") as changes,
        Actor(steps, "wait", "exit", "24") as stays,
        ExitStack() as later,
    ):
        for actor in (ends, threaded, execs, changes, stays):
            actor.reached()
            daemon.wait_entry(of("exec", pid=actor.pid))
        since_usec = time.monotonic_ns() // 1000
        with deaf(daemon):
            # From here on the connector's buffer is full; that of the records is not.
            with Actor(steps, "renames", "5000") as flood:
                flood.end()
            ids = {actor: process_id(actor.pid) for actor in (ends, threaded, execs, changes, stays)}
            for actor in (ends, threaded):
                actor.go()
                actor.end()
            changes.go()
            changes.reached()
            execs.go()
            with Actor(steps, "note", "unseen", "exit", "25") as unseen:
                unseen.end()
            late = later.enter_context(Actor(steps, "note", "began", "wait", "exit", "26"))
            late.reached()
            comm = Path(f"/proc/{execs.pid}/comm")
            assert daemon.wait_until(lambda: comm.read_text() == "sleep\n")
        resync = daemon.wait_entry(of("resync"))
        until_usec = time.monotonic_ns() // 1000

        terms = check_loss(daemon, resync, since_usec, until_usec)
        for actor, code in ((ends, "21"), (threaded, "22")):
            (entry,) = exits_of(daemon, ids[actor])
            assert (entry[f"{PREFIX}EXIT_CODE"], entry[f"{PREFIX}RESYNC"]) == (code, "1")
            assert entry[f"{PREFIX}EXIT_SOURCE"] == "taskstats"
            assert number(entry, "DURATION_USEC") > 0
        (found,) = daemon.having(lambda one: of("exec", pid=execs.pid, resync=1)(one))
        assert found[f"{PREFIX}CMDLINE"] == "/bin/sleep 1000"
        assert found[f"{PREFIX}PROCESS_ID"] == ids[execs]
        (found,) = daemon.having(of("exec", pid=late.pid))
        assert found[f"{PREFIX}CMDLINE"] == f"{steps} note began wait exit 26"
        assert found[f"{PREFIX}RESYNC"] == "1"
        for name, least in (("VANISHED", 3), ("APPEARED", 1), ("EXECED", 1)):
            assert number(resync, name) >= least, name

        # From here on all is as if nothing had been.
        for actor in (changes, stays, late):
            actor.go()
            ended = process_id(actor.pid)
            actor.end()
            entry = daemon.wait_entry(of("exit", process_id=ended))
            assert f"{PREFIX}RESYNC" not in entry
            assert entry[f"{PREFIX}UID"] == ("65534" if actor is changes else "0")
        execs.process.kill()
        execs.end()
        assert daemon.wait_entry(of("exit", pid=execs.pid))[f"{PREFIX}CMDLINE"] == "/bin/sleep 1000"
        assert len(exits_of(daemon, ids[ends])) == len(exits_of(daemon, ids[execs])) == 1
        assert daemon.stop() == 0
        assert check_end(daemon.entries[-1])["LOST"] == terms["LOST"]


def test_a_life_within_a_loss_is_known_by_its_record(tmp_path: Path, steps: str) -> None:
    config = f"capture: {{events: [exit], {SMALL}}}\nrules: [{{match: {{comm|exists: false}}, action: drop, name: n}}]"
    with RunningDaemon(tmp_path, config) as daemon:
        daemon.statistics()
        with deaf(daemon):
            with Actor(steps, "renames", "5000") as flood:
                flood.end()
            with Actor(steps, "comm", "unseen", "touch", "32", "exit", "25") as unseen:
                unseen.end()
        daemon.wait_entry(of("resync"))
        (entry,) = daemon.having(of("exit", pid=unseen.pid))
        assert entry[f"{PREFIX}COMM"] == "unseen"
        assert entry[f"{PREFIX}EXIT_CODE"] == "25"
        assert entry[f"{PREFIX}PPID"] == str(os.getpid())
        assert (entry[f"{PREFIX}UID"], entry[f"{PREFIX}RESYNC"]) == ("0", "1")
        assert entry[f"{PREFIX}PARENT_PROCESS_ID"] == process_id(os.getpid())
        assert number(entry, "MEMORY_PEAK") > 32 << 20


def test_lost_records_are_counted_apart(tmp_path: Path, helpers: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, SMALL_BUFFER) as daemon:
        with deaf(daemon):
            subprocess.run([helpers / "storm", "300"], check=True, stdout=subprocess.DEVNULL)
        loss = daemon.wait_entry(of("loss", lost_where="accounting"))
        assert number(loss, "COUNT") > 100
        entry = daemon.statistics()
        check_sums(terms_of(entry))
        assert number(entry, "ACCOUNTING_LOST") == number(loss, "COUNT")
        daemon.wait_entry(of("resync"))
        with Actor(steps, "exit", "3") as actor:
            actor.end()
        ended = daemon.wait_entry(of("exit", pid=actor.pid))
        assert (ended[f"{PREFIX}EXIT_CODE"], ended[f"{PREFIX}EXIT_SOURCE"]) == ("3", "taskstats")


def test_the_equations_hold_whenever_asked(tmp_path: Path, helpers: Path) -> None:
    """During storms, overruns and reloads."""
    with RunningDaemon(tmp_path, DROP_ALL) as daemon:
        storms = [subprocess.Popen([helpers / "storm", "1500"], stdout=subprocess.DEVNULL) for _ in range(2)]
        asked = 0
        while any(storm.poll() is None for storm in storms):
            entry = daemon.statistics()
            asked += 1
            check_sums(terms_of(entry))
            if asked % 3 == 0:
                daemon.process.send_signal(signal.SIGHUP)
            if asked % 5 == 0:
                with deaf(daemon):
                    time.sleep(0.02)
        assert asked >= 5
        assert terms_of(entry)["LOST"] > 0
        losses = daemon.wait_entries(of("loss", lost_where="kernel"), 1)
        assert daemon.stop() == 0
        terms = check_end(daemon.entries[-1])
        losses = daemon.having(of("loss", lost_where="kernel"))
        assert terms["LOST"] == sum(number(one, "COUNT") for one in losses)


def test_stopped_amid_an_overrun_it_knows_what_was_lost(tmp_path: Path, helpers: Path) -> None:
    """There is no room for an ACK either, when it is asked for the last numbers."""
    with RunningDaemon(tmp_path, DROP_ALL) as daemon:
        with deaf(daemon):
            subprocess.run([helpers / "storm", "500"], check=True, stdout=subprocess.DEVNULL)
            daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30) == 0
        daemon.stop()
        terms = check_end(daemon.entries[-1])
        assert terms["LOST"] > 0


@pytest.mark.parametrize("config", [COUNTED, "log: {unmatched: drop}"], ids=["all", "processes"])
def test_all_forks_of_the_kernel_were_told(tmp_path: Path, helpers: Path, config: str) -> None:
    """By the kernel's own count, or the recorder's of processes alone, that know nothing of the connector."""
    with RunningDaemon(tmp_path, config) as daemon:

        def missing() -> int:
            entry = daemon.statistics()
            check_sums(terms_of(entry))
            return number(entry, "FORKS_KERNEL") - number(entry, "FORKS")

        # A fork of somebody else may come between the two counts.
        assert daemon.wait_until(lambda: missing() == 0)
        subprocess.run([helpers / "storm", "500"], check=True, stdout=subprocess.DEVNULL)
        assert daemon.wait_until(lambda: missing() == 0)
        assert number(daemon.statistics(), "FORKS") > 1000
