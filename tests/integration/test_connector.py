# SPDX-License-Identifier: MIT
"""The connector's socket on the real kernel: proof, bell, forgeries, overruns."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from procwatchd.errors import KernelError
from procwatchd.kernel import wire
from procwatchd.kernel.bell import Bell
from procwatchd.kernel.connector import BULK, Connector, Received
from procwatchd.kernel.sequence import Sequences

NETLINK_CONNECTOR = 11


@pytest.fixture
def connector() -> Iterator[Connector]:
    connector = Connector()
    connector.subscribe()
    yield connector
    connector.close()


def everything(connector: Connector) -> list[Received]:
    found = []
    while (received := connector.receive()) is not None:
        found.append(received)
    return found


def events(found: list[Received]) -> list[wire.RawEvent]:
    return wire.decode(b"".join(received.datagrams for received in found))[0]


def run_true() -> int:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def wait_for_end(connector: Connector, pid: int) -> list[Received]:
    """All that came until the process's EXIT."""
    found: list[Received] = []
    deadline = time.monotonic() + 30
    while not any(event[5] == wire.EXIT and event[9] == pid for event in events(found)):
        assert time.monotonic() < deadline, "no EXIT came"
        connector.wait(1)
        found += everything(connector)
    return found


def test_the_acknowledgement_is_among_what_came_first() -> None:
    connector = Connector()
    try:
        early = connector.subscribe()
        assert wire.NONE in {event[5] for event in events(early)}
        assert connector.receive_buffer_bytes == connector.receive_buffer_wanted
    finally:
        connector.close()


def test_a_life_in_order(connector: Connector) -> None:
    pid = run_true()
    found = events(wait_for_end(connector, pid))
    life = [event[5] for event in found if pid in (event[9], event[11]) and event[5] != wire.COMM]
    assert [what for what in life if what in (wire.FORK, wire.EXEC, wire.EXIT)] == [
        wire.FORK,
        wire.EXEC,
        wire.EXIT,
    ]


@pytest.fixture
def bell(connector: Connector) -> Iterator[Bell]:
    assert connector.wait(0) in (True, False)  # its subscription serves the bell too
    with contextlib.closing(Bell()) as bell:
        yield bell


def heard(bell: Bell) -> list[wire.RawEvent]:
    found = []
    while (event := bell.hear()) is not None:
        found.append(event)
    return found


def test_the_bell_brings_each_exec_and_nothing_else(connector: Connector, bell: Bell) -> None:
    pids = [run_true() for _ in range(50)]
    found = events(wait_for_end(connector, pids[-1]))
    rung = heard(bell)
    assert {event[5] for event in rung} == {wire.EXEC}
    assert set(pids) <= {event[9] for event in rung}
    # The same events, to the nanosecond: that is what they are joined by.
    in_order = {(event[9], event[7]) for event in found if event[5] == wire.EXEC}
    assert {(event[9], event[7]) for event in rung if event[9] in pids} <= in_order


def test_the_bell_rings_before_the_event_is_there(connector: Connector, bell: Bell) -> None:
    rung: set[tuple[int, int]] = set()
    arrived = 0
    with subprocess.Popen(
        ["/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"]
    ) as shell:
        while shell.poll() is None:
            found = events(everything(connector))
            rung |= {(event[9], event[7]) for event in heard(bell)}
            execs = {(event[9], event[7]) for event in found if event[5] == wire.EXEC}
            assert execs <= rung
            arrived += len(execs)
    assert arrived > 0


def test_the_bell_can_be_waited_for(connector: Connector, bell: Bell) -> None:
    heard(bell)
    process = subprocess.Popen(["/bin/true"])
    assert select.select([bell], [], [], 30)[0]
    process.wait()
    wait_for_end(connector, process.pid)


def test_a_forged_ring_is_not_heard(bell: Bell) -> None:
    forger = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    forger.bind((0, 0))
    forger.sendto(wire.encode_event(wire.EXEC, 4242, 4242), (0, 1))
    assert all(event[9] != 4242 for event in heard(bell))
    forger.close()


def test_forged_multicasts_are_foreign(connector: Connector) -> None:
    forger = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    forger.bind((0, 0))
    forged = wire.encode_event(wire.EXEC, 4242, 4242)
    everything(connector)
    for datagram in (forged, forged[:40], forged + forged):
        forger.sendto(datagram, (0, 1))
    pid = run_true()
    found = wait_for_end(connector, pid)
    assert sum(received.foreign for received in found) == 3
    assert all(event[9] != 4242 for event in events(found))
    assert sum(received.odd for received in found) == 0
    forger.close()


def test_forged_unicasts_bounce(connector: Connector) -> None:
    forger = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    forger.bind((0, 0))
    port = connector._socket.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        forger.sendto(wire.encode_event(wire.EXEC, 4242, 4242), (port, 0))
    forger.close()


def test_after_bulks_with_strangers_in_them_all_is_in_order_again(connector: Connector) -> None:
    """The fast check of a bulk compares memory: what one odd bulk leaves there must not spoil the next."""
    forger = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    forger.bind((0, 0))
    for _ in range(5):
        forger.sendto(wire.encode_event(wire.EXIT, 1, 1), (0, 1))
        pid = run_true()
        forger.sendto(b"short", (0, 1))
        found = wait_for_end(connector, pid) + everything(connector)
        assert sum(received.foreign for received in found) == 2
        pid = run_true()
        found = wait_for_end(connector, pid)
        assert sum(received.foreign + received.odd for received in found) == 0
    forger.close()


def subscribed_with_little_room() -> tuple[Connector, list[Received]]:
    """A connector with so small a buffer that, where others are busy, even the ACK may find no room."""
    for _ in range(50):
        connector = Connector(receive_buffer_bytes=16 << 10)
        try:
            return connector, connector.subscribe(timeout_seconds=0.2)
        except KernelError:
            connector.close()
    raise AssertionError("no ACK came")


def test_drops_are_counted_exactly() -> None:
    connector, first = subscribed_with_little_room()
    sequences = Sequences()
    received = 0

    def take() -> None:
        nonlocal received
        found = events(everything(connector))
        sequences.follow(found)
        received += len(found)

    def on_each_cpu() -> None:
        """An event of each CPU, so that gaps before and after it show."""
        for cpu in os.sched_getaffinity(0):
            subprocess.run(["taskset", "-c", str(cpu), "/bin/true"], check=True)
            take()

    try:
        early = events(first)
        sequences.follow(early)
        received = len(early)
        on_each_cpu()
        subprocess.run(["/bin/sh", "-c", "i=0; while [ $i -lt 300 ]; do (:); i=$((i+1)); done"], check=True)
        take()
        assert connector.kernel_drops() > 0
        for _ in range(50):
            drops = connector.kernel_drops()
            on_each_cpu()
            if connector.kernel_drops() == drops:
                break
        assert sequences.produced == received + connector.kernel_drops()
    finally:
        connector.close()


def test_bulks_are_whole(connector: Connector) -> None:
    script = "i=0; while [ $i -lt 1500 ]; do (:); i=$((i+1)); done"
    subprocess.run(["/bin/sh", "-c", script], check=True)
    found = everything(connector)
    assert len(found[0].datagrams) == BULK * wire.EVENT_BYTES
    assert len([event for event in events(found) if event[5] == wire.FORK]) >= 1500
    assert connector.kernel_drops() == 0
