# SPDX-License-Identifier: MIT
"""What JournaldWriter sends is what a real journald stores: all of it, in order, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.native import RECONNECT_SECONDS, JournaldWriter, encode
from procwatchd.journal.writer import Loss
from tests.integration.journald import DAEMON, PrivateJournald

PATIENCE_SECONDS = 20.0
TEST_ID = "3d9a7f1c52b04e8f8a6c1b0f5e2d4c77"

pytestmark = pytest.mark.skipif(
    not DAEMON.exists() and "CI" not in os.environ, reason="systemd-journald is not installed"
)


@pytest.fixture
def journald() -> Iterator[PrivateJournald]:
    with PrivateJournald() as journald:
        yield journald


@pytest.fixture
def writer(journald: PrivateJournald) -> Iterator[JournaldWriter]:
    writer = JournaldWriter(journald.socket_path)
    yield writer
    writer.close()


def entry(number: int, **fields: FieldValue) -> Entry:
    return Entry({"MESSAGE": str(number), "TEST_ID": TEST_ID, **fields}, 1_000_000 + number, 1)


def stored(journald: PrivateJournald) -> list[dict[str, Any]]:
    journald.sync()
    return journald.entries(TEST_ID=TEST_ID)


def numbers(journald: PrivateJournald) -> list[int]:
    return [int(one["MESSAGE"]) for one in stored(journald)]


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


VALUES: list[str | bytes] = [
    "plain",
    "",
    "grün 日本",
    b"\xff\xfe",
    b"a\0b",
    bytes(range(256)),
    b"\n",
    "two\nlines",
    b"ends with\n",
    b"\n\n\xff",
    "a=b",
    b"\x1b[2J",
    "x" * 5000,
    b"y" * 100_000,
    b"z\n" * 100_000,
]


def test_values_come_back_byte_for_byte(journald: PrivateJournald, writer: JournaldWriter) -> None:
    fields: dict[str, FieldValue] = {f"VALUE_{number}": value for number, value in enumerate(VALUES)}
    writer.write(entry(1, **fields))
    (one,) = stored(journald)
    for name, value in fields.items():
        assert not isinstance(value, list)
        assert as_bytes(one[name]) == as_bytes(value)
    assert writer.written_events == 1


def test_a_repeated_field_comes_back_as_a_list(journald: PrivateJournald, writer: JournaldWriter) -> None:
    writer.write(entry(1, SIGMA=["one", b"two\n", b"\xff", ""], ONCE=["alone"]))
    (one,) = stored(journald)
    assert [*map(as_bytes, one["SIGMA"])] == [b"one", b"two\n", b"\xff", b""]
    assert one["ONCE"] == "alone"


def test_no_value_can_forge_a_field(journald: PrivateJournald, writer: JournaldWriter) -> None:
    forgeries: list[str | bytes] = [
        "x\n_PID=1\nPRIORITY=0\nFORGED=1",
        b"x\n\nMESSAGE=forged\nTEST_ID=" + TEST_ID.encode() + b"\n\n",
        b"x\nFORGED\n\x01\0\0\0\0\0\0\0y\n",
        encode(entry(99, FORGED="1")),
        b"\nFORGED=1\n",
        "\nFORGED=1\udcff\n",
    ]
    writer.write(entry(1, PRIORITY="6", VALUE=forgeries))
    writer.write(entry(2, PRIORITY="6", VALUE=forgeries[0]))
    first, second = stored(journald)
    assert [*map(as_bytes, first["VALUE"][:-1])] == [*map(as_bytes, forgeries[:-1])]
    assert second["VALUE"] == forgeries[0]
    for one in (first, second):
        assert one["_PID"] == os.getpid()
        assert one["PRIORITY"] == 6
        assert "FORGED" not in one


def test_an_entry_of_3_mib_is_stored_whole(journald: PrivateJournald, writer: JournaldWriter) -> None:
    value = os.urandom(3 << 20)
    writer.write(entry(1))
    writer.write(entry(2, VALUE=value))
    writer.write(entry(3))
    assert writer.wait(PATIENCE_SECONDS)
    one = stored(journald)
    assert [int(each["MESSAGE"]) for each in one] == [1, 2, 3]
    assert one[1]["VALUE"] == value


def test_a_burst_is_stored_whole_and_in_order(journald: PrivateJournald, writer: JournaldWriter) -> None:
    count = 20_000
    for number in range(count):
        writer.write(entry(number, PROCWATCH_PID=str(number), PROCWATCH_COMM=b"burst"))
    assert writer.wait(PATIENCE_SECONDS)
    assert (writer.written_events, writer.held_events, writer.unwritten_events) == (count, 0, 0)
    assert numbers(journald) == list(range(count))


def test_while_journald_stands_still_entries_are_held(
    journald: PrivateJournald, writer: JournaldWriter
) -> None:
    journald.pause()
    for number in range(5000):
        writer.write(entry(number))
    assert writer.held_events > 0
    assert writer.wait(0.05) is False
    journald.resume()
    assert writer.wait(PATIENCE_SECONDS)
    assert writer.written_events == 5000
    assert numbers(journald) == list(range(5000))


def test_while_journald_is_gone_entries_are_held(journald: PrivateJournald, writer: JournaldWriter) -> None:
    for number in range(100):
        writer.write(entry(number))
    assert writer.wait(PATIENCE_SECONDS)
    journald.sync()
    journald.kill()
    for number in range(100, 3000):
        writer.write(entry(number))
    assert (writer.written_events, writer.held_events) == (100, 2900)
    assert writer.wait(2 * RECONNECT_SECONDS) is False
    journald.restart()
    assert writer.wait(PATIENCE_SECONDS)
    assert (writer.written_events, writer.unwritten_events) == (3000, 0)
    assert numbers(journald) == list(range(3000))


def test_a_big_entry_keeps_its_place_over_a_restart(
    journald: PrivateJournald, writer: JournaldWriter
) -> None:
    journald.kill()
    for number in range(10):
        writer.write(entry(number, VALUE="x" * (1 << 20)) if number % 3 == 0 else entry(number))
    journald.restart()
    assert writer.wait(PATIENCE_SECONDS)
    assert numbers(journald) == list(range(10))


def test_beyond_the_hold_entries_are_lost_and_counted_exactly(journald: PrivateJournald) -> None:
    size = len(encode(entry(1000)))
    writer = JournaldWriter(journald.socket_path, hold_bytes=300 * size)
    journald.kill()
    for number in range(1000, 1500):
        writer.write(entry(number))
    assert (writer.held_events, writer.unwritten_events) == (300, 200)
    journald.restart()
    assert writer.wait(PATIENCE_SECONDS)
    writer.write(entry(1500))
    assert writer.wait(PATIENCE_SECONDS)
    assert writer.take_loss() == Loss(200, 200, since_usec=1_001_300, until_usec=1_001_499)
    assert numbers(journald) == [*range(1000, 1300), 1500]
    writer.close()


def test_nothing_is_left_behind() -> None:
    with PrivateJournald() as journald:
        pid, directory = journald.pid, journald.directory
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
