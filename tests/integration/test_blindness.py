# SPDX-License-Identifier: MIT
"""Somebody breaks the kernel's count of listeners: that is noticed, told, and mended."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from procwatchd.kernel import wire
from procwatchd.kernel.connector import Connector, find_ack, open_socket
from tests.integration.actor import Actor, process_id
from tests.integration.conftest import EVERYTHING
from tests.integration.ledger import PREFIX, check_end
from tests.integration.running import Entry, RunningDaemon, of
from tests.integration.test_losses import deaf

# Up to Linux 6.5 it takes CAP_NET_ADMIN to speak to the connector at all.
_release = re.match(r"(\d+)\.(\d+)", os.uname().release)
ANY_USER_MAY = _release is not None and (int(_release[1]), int(_release[2])) >= (6, 6)
# Forks that are counted, and whose event is on its way, when the two counts are compared.
IN_FLIGHT = 20
WITHOUT_THREADS = EVERYTHING.replace("threads: on", "threads: off")
# The kernel's count of forks is that of processes and threads: it can be compared where both are told.
COUNTED = "{capture: {threads: on}, log: {unmatched: drop}}"


def deafen(helpers: Path, depth: int = 0) -> None:
    """Have the kernel think that nobody listens; `depth`: so many times over."""
    user = 65534 if ANY_USER_MAY else 0
    subprocess.run([helpers / "deafen", str(depth)], check=True, user=user, group=user, extra_groups=[])


def is_anybody_heard() -> bool:
    """Whether the kernel counts a listener: else it answers nothing."""
    with open_socket() as probe:
        probe.send(wire.encode_request(wire.NO_OPERATION, seq=1, ack=0x1DEB))
        probe.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while datagram := probe.recv(4096):
                if find_ack(datagram, 0x1DEC) is not None:
                    return True
    return False


def number(entry: Entry, name: str) -> int:
    return int(entry[PREFIX + name])


@pytest.mark.parametrize("depth", [0, 50, 3000])
def test_the_daemon_is_heard_again(tmp_path: Path, helpers: Path, steps: str, depth: int) -> None:
    with (
        RunningDaemon(tmp_path, WITHOUT_THREADS) as daemon,
        Actor(steps, "wait", "exit", "5") as ends,
        Actor(steps, "wait", "exit", "6") as stays,
    ):
        for actor in (ends, stays):
            actor.reached()
            daemon.wait_entry(of("exec", pid=actor.pid))
        deafen(helpers, depth)
        ended = process_id(ends.pid)
        ends.go()
        ends.end()
        blind, sees = daemon.wait_entries(of("blind"), 2)
        assert str(blind["PRIORITY"]) == str(sees["PRIORITY"]) == "4"
        assert f"{PREFIX}UNTIL_USEC" not in blind
        assert number(blind, "SINCE_USEC") == number(sees, "SINCE_USEC") < number(sees, "UNTIL_USEC")
        daemon.wait_entry(of("resync"))
        # Told in time, or found afterwards: in the record once.
        entry = daemon.wait_entry(of("exit", process_id=ended))
        assert entry[f"{PREFIX}EXIT_CODE"] == "5"

        with Actor(steps, "exit", "7") as later:
            later.end()
        assert daemon.wait_entry(of("exit", pid=later.pid))[f"{PREFIX}EXIT_CODE"] == "7"
        daemon.wait_entry(of("exec", pid=later.pid))
        stays.go()
        stays.end()
        assert daemon.wait_entry(of("exit", pid=stays.pid))[f"{PREFIX}EXIT_CODE"] == "6"
        assert len(daemon.having(of("exit", process_id=ended))) == 1
        assert daemon.stop() == 0
        check_end(daemon.entries[-1])


def test_what_was_missed_meanwhile_is_counted(tmp_path: Path, helpers: Path) -> None:
    with RunningDaemon(tmp_path, COUNTED) as daemon:
        deafen(helpers, 50)
        ran = subprocess.run([helpers / "storm", "200"], check=True, capture_output=True, text=True)
        _blind, sees = daemon.wait_entries(of("blind"), 2)
        daemon.wait_entry(of("resync"))
        assert number(sees, "COUNT") > 0
        assert int(ran.stdout) > 100

        def untold() -> int:
            entry = daemon.statistics()
            assert 0 <= number(entry, "FORKS_MISSED") - number(sees, "COUNT") <= IN_FLIGHT
            return number(entry, "FORKS_KERNEL") - number(entry, "FORKS") - number(entry, "FORKS_MISSED")

        assert daemon.wait_until(lambda: abs(untold()) <= IN_FLIGHT)


def test_a_daemon_starts_where_nobody_is_heard(tmp_path: Path, helpers: Path, steps: str) -> None:
    deafen(helpers, 50)
    with RunningDaemon(tmp_path, WITHOUT_THREADS) as daemon:
        with Actor(steps, "exit", "8") as actor:
            actor.end()
        assert daemon.wait_entry(of("exit", pid=actor.pid))[f"{PREFIX}EXIT_CODE"] == "8"
        assert not daemon.having(of("blind"))


def test_who_stops_is_counted_no_more(tmp_path: Path, helpers: Path) -> None:
    deafen(helpers)
    assert not is_anybody_heard()
    with RunningDaemon(tmp_path, "log: {unmatched: drop}") as daemon:
        assert is_anybody_heard()
        assert daemon.stop() == 0
    assert not is_anybody_heard()


def test_other_listeners_are_noted(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, "log: {unmatched: drop}") as daemon:
        other = Connector()
        other.subscribe()
        entry = daemon.wait_entry(of("listener"))
        other.close()
        assert str(entry["PRIORITY"]) == "7"
        assert number(entry, "COUNT") >= 1
        assert not daemon.having(of("blind"))


def test_a_blindness_that_others_mended_is_noticed(tmp_path: Path, helpers: Path) -> None:
    """By the kernel's own count of forks."""
    with RunningDaemon(tmp_path, COUNTED) as daemon:
        daemon.statistics()
        with deaf(daemon):
            deafen(helpers)
            subprocess.run([helpers / "storm", "50"], check=True, stdout=subprocess.DEVNULL)
            other = Connector()
            other.subscribe()
        assert daemon.wait_until(lambda: bool(daemon.statistics() and daemon.having(of("blind"))))
        other.close()
        (entry,) = daemon.having(of("blind"))
        assert number(entry, "COUNT") > 0
        assert number(entry, "SINCE_USEC") < number(entry, "UNTIL_USEC")
        daemon.wait_entry(of("resync"))
