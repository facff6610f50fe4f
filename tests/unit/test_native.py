# SPDX-License-Identifier: MIT
"""Nothing given to the journald writer is lost in silence, reordered or forged, whatever the other end does."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.journal import native
from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.native import JournaldWriter, encode
from procwatchd.journal.writer import Loss, Writer

PATIENCE_SECONDS = 10.0


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Journal:
    """The other end: a datagram socket that somebody may read, close and make anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def stop(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def receive(self) -> bytes | None:
        """The next datagram, or what is in its memfd; None where there is none."""
        assert self.socket is not None
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 4)
        except BlockingIOError:
            return None
        if not fds:
            return data
        assert data == b""
        (fd,) = fds
        try:
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == native._SEALS
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def receive_all(self) -> list[bytes]:
        result = []
        while (data := self.receive()) is not None:
            result.append(data)
        return result


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    yield journal
    journal.stop()


def entry(number: int, *, size: int = 0, events: int = 1) -> Entry:
    fields: dict[str, FieldValue] = {"MESSAGE": f"{number}" + "x" * size}
    return Entry(fields, realtime_usec=1_000_000 + number, events=events)


def messages(*numbers: int) -> list[bytes]:
    return [b"MESSAGE=%d\n" % number for number in numbers]


def fill(writer: JournaldWriter) -> int:
    """Write until the first entry is held; the number of those that were not."""
    number = 0
    while not writer.held_events:
        writer.write(entry(number))
        number += 1
        assert number < 100_000
    return number - 1


def parse(data: bytes) -> list[tuple[str, bytes]]:
    """The native protocol as its documentation has it, read strictly."""
    fields = []
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value = rest[8 : 8 + size]
            assert rest[8 + size : 9 + size] == b"\n"
            data = rest[9 + size :]
        fields.append((name.decode(), value))
    return fields


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("plain", b"A=plain\n"),
        ("", b"A=\n"),
        ("a=b", b"A=a=b\n"),
        ("grün", "A=grün\n".encode()),
        (b"\xff\0\x1b[m", b"A=\xff\0\x1b[m\n"),
        ("a\nPRIORITY=0", b"A\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n"),
        (b"\n", b"A\n\x01\0\0\0\0\0\0\0\n\n"),
        ("\udcff\ud800", b"A=??\n"),
        (["a", b"b", "c\n"], b"A=a\nA=b\nA\n\x02\0\0\0\0\0\0\0c\n\n"),
        ([], b""),
    ],
)
def test_a_value_is_encoded(value: FieldValue, encoded: bytes) -> None:
    assert encode(Entry({"A": value}, 0)) == encoded
    assert encode(Entry({"B": "b", "A": value, "C": b"c"}, 0)) == b"B=b\n" + encoded + b"C=c\n"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True), st.binary() | st.text()))
def test_what_is_encoded_can_be_told_apart_again(fields: dict[str, FieldValue]) -> None:
    expected = [
        (name, value.encode("utf-8", "replace") if isinstance(value, str) else value)
        for name, value in fields.items()
    ]
    assert parse(encode(Entry(fields, 0))) == expected


@pytest.mark.parametrize("name", ["", "_PID", "1A", "a", "A B", "A=B", "A\n", "Ä", "A" * 65])
def test_a_name_that_journald_would_drop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        encode(Entry({name: "x"}, 0))


def test_the_longest_name_is_fine() -> None:
    assert encode(Entry({"A" * 64: ""}, 0)) == b"A" * 64 + b"=\n"


def test_it_is_a_writer(journal: Journal) -> None:
    writer: Writer = JournaldWriter(str(journal.path))
    writer.close()


def test_entries_arrive_and_are_counted(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    writer.write(entry(1))
    writer.write(entry(2, events=7))
    writer.write(entry(3, events=0))
    assert journal.receive_all() == messages(1, 2, 3)
    assert (writer.written_events, writer.held_events, writer.unwritten_events) == (8, 0, 0)
    assert writer.take_loss() is None
    writer.close()


def test_a_path_may_be_bytes(journal: Journal) -> None:
    writer = JournaldWriter(os.fsencode(journal.path))
    writer.write(entry(1))
    assert journal.receive_all() == messages(1)
    writer.close()


def test_a_full_queue_holds_entries_back_in_order(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    sent = fill(writer)
    for number in range(sent + 1, sent + 100):
        writer.write(entry(number))
    assert (writer.written_events, writer.held_events) == (sent, 100)
    received = [journal.receive()]
    # There is room again, but others wait for it.
    writer.write(entry(sent + 100))
    assert writer.held_events == 100
    while writer.held_events or received[-1] is not None:
        received.append(journal.receive())
        writer.flush()
    assert received[:-1] == messages(*range(sent + 101))
    assert (writer.written_events, writer.unwritten_events) == (sent + 101, 0)
    writer.close()


def test_what_does_not_fit_the_hold_is_lost_and_counted_exactly(journal: Journal) -> None:
    size = len(encode(entry(0, size=1000)))
    writer = JournaldWriter(str(journal.path), hold_bytes=10 * size)
    journal.stop()
    for number in range(10):
        writer.write(entry(number, size=1000))
    for number in range(5):
        writer.write(entry(number, size=1000, events=number))
    assert (writer.written_events, writer.held_events) == (0, 10)
    assert writer.unwritten_events == 10
    assert writer.take_loss() == Loss(entries=5, events=10, since_usec=1_000_000, until_usec=1_000_004)
    assert writer.take_loss() is None
    writer.write(entry(9, size=1000))
    assert writer.take_loss() == Loss(entries=1, events=1, since_usec=1_000_009, until_usec=1_000_009)
    assert writer.unwritten_events == 11
    writer.close()


@pytest.mark.parametrize("file_stays", [True, False])
def test_a_journal_that_comes_back_gets_what_was_held(journal: Journal, file_stays: bool) -> None:
    clock = Clock()
    writer = JournaldWriter(str(journal.path), clock=clock)
    writer.write(entry(0))
    journal.stop()
    if not file_stays:
        journal.path.unlink()
    clock.now += 1
    for number in range(1, 4):
        writer.write(entry(number))
    assert writer.held_events == 3
    journal.start()
    writer.flush()
    assert writer.held_events == 3, "it tried again at once"
    clock.now += native.RECONNECT_SECONDS
    writer.write(entry(4))
    assert journal.receive_all() == messages(1, 2, 3, 4)
    assert (writer.written_events, writer.held_events, writer.unwritten_events) == (5, 0, 0)
    writer.close()


def test_a_restart_between_two_entries_costs_nothing(journal: Journal) -> None:
    clock = Clock()
    writer = JournaldWriter(str(journal.path), clock=clock)
    journal.stop()
    journal.start()
    clock.now += 1
    writer.write(entry(1))
    assert journal.receive_all() == messages(1)
    writer.close()


def test_a_journal_that_is_not_there_yet_is_waited_for(journal: Journal) -> None:
    clock = Clock()
    journal.stop()
    journal.path.unlink()
    writer = JournaldWriter(str(journal.path), clock=clock)
    writer.write(entry(1))
    assert writer.held_events == 1
    journal.start()
    clock.now += 1
    writer.flush()
    assert journal.receive_all() == messages(1)
    writer.close()


@pytest.mark.parametrize("size", [native.DATAGRAM_BYTES, 3 << 20])
def test_a_big_entry_goes_in_a_sealed_memfd(journal: Journal, size: int) -> None:
    writer = JournaldWriter(str(journal.path))
    before = len(os.listdir("/proc/self/fd"))
    writer.write(entry(1))
    writer.write(entry(2, size=size))
    writer.write(entry(3))
    assert len(os.listdir("/proc/self/fd")) == before
    assert journal.receive_all() == [*messages(1), encode(entry(2, size=size)), *messages(3)]
    assert writer.written_events == 3
    writer.close()


def test_a_datagram_the_socket_refuses_goes_in_a_memfd(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_enlarge_send_buffer", _shrink_send_buffer)
    writer = JournaldWriter(str(journal.path))
    writer.write(entry(1, size=50_000))
    assert journal.receive_all() == [encode(entry(1, size=50_000))]
    writer.close()


def _shrink_send_buffer(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def test_a_big_entry_keeps_its_place_behind_what_is_held(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    sent = fill(writer)
    writer.write(entry(sent + 1, size=1 << 20))
    writer.write(entry(sent + 2))
    assert writer.held_events == 3
    received = []
    while writer.held_events:
        received.append(journal.receive())
        writer.flush()
    received += journal.receive_all()
    assert received[-3:] == [*messages(sent), encode(entry(sent + 1, size=1 << 20)), *messages(sent + 2)]
    writer.close()


def test_an_entry_beyond_all_limits_is_lost_and_the_next_is_not(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    writer.write(entry(1, size=native.ENTRY_BYTES, events=3))
    writer.write(entry(2))
    assert journal.receive_all() == messages(2)
    assert writer.take_loss() == Loss(entries=1, events=3, since_usec=1_000_001, until_usec=1_000_001)
    writer.close()


def test_no_descriptor_for_a_memfd_costs_that_entry_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_name: str, _flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    writer = JournaldWriter(str(journal.path))
    writer.write(entry(1, size=1 << 20))
    writer.write(entry(2))
    assert journal.receive_all() == messages(2)
    assert (writer.written_events, writer.unwritten_events) == (1, 1)
    writer.close()


def test_wait_drains_as_the_journal_reads(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    sent = fill(writer)
    for number in range(sent + 1, sent + 2000):
        writer.write(entry(number))
    assert writer.wait(0) is False
    received: list[bytes] = []
    assert journal.socket is not None
    journal.socket.setblocking(True)

    def read() -> None:
        while len(received) < sent + 2000:
            data = journal.receive()
            assert data is not None
            received.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert writer.wait(PATIENCE_SECONDS) is True
    reader.join(PATIENCE_SECONDS)
    assert received == messages(*range(sent + 2000))
    assert writer.wait(0) is True
    writer.close()


def test_wait_ends_in_time_where_nobody_reads(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    fill(writer)
    assert writer.wait(0.01) is False
    journal.stop()
    assert writer.wait(0.01) is False
    writer.close()


def test_what_is_held_at_close_is_lost_and_counted(journal: Journal) -> None:
    writer = JournaldWriter(str(journal.path))
    journal.stop()
    writer.write(entry(1))
    writer.write(entry(2))
    writer.close()
    assert (writer.written_events, writer.held_events, writer.unwritten_events) == (0, 0, 2)
    assert writer.take_loss() == Loss(entries=2, events=2, since_usec=1_000_001, until_usec=1_000_002)


def test_nothing_stays_open(journal: Journal) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        writer = JournaldWriter(str(journal.path))
        writer.write(entry(1))
        journal.stop()
        writer.write(entry(2))
        journal.start()
        writer.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
