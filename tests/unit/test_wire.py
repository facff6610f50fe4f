# SPDX-License-Identifier: MIT
"""The wire format, as bytes literals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.kernel import wire

# Captured on Linux 6.18: a vfork and the child's exec and exit.
FORK = bytes.fromhex(
    "4c000000 0300 0000 ccd60700 00000000 01000000 01000000 ccd60700 00000000 2800 0000"
    "01000000 01000000 b7b259e6c9010000 0d690000 0d690000 0e690000 0e690000 00000000 00000000"
)
EXEC = bytes.fromhex(
    "4c000000 0300 0000 a1e40600 00000000 01000000 01000000 a1e40600 00000000 2800 0000"
    "02000000 00000000 8ce95ce6c9010000 0e690000 0e690000 00000000 00000000 00000000 00000000"
)
EXIT = bytes.fromhex(
    "4c000000 0300 0000 a2e40600 00000000 01000000 01000000 a2e40600 00000000 2800 0000"
    "00000080 00000000 872e64e6c9010000 0e690000 0e690000 00000000 11000000 0d690000 0d690000"
)
ACK = bytes.fromhex(
    "4c000000 0300 0000 cbd60700 00000000 01000000 01000000 cbd60700 b638527c 2800 0000"
    "00000000 01000000 eb6b527cc2010000 00000000 00000000 00000000 00000000 00000000 00000000"
)


def one(datagram: bytes) -> wire.Event:
    events, malformed = wire.decode(datagram)
    assert malformed == 0
    assert len(events) == 1
    return wire.Event(*events[0])


def test_captured_datagrams() -> None:
    fork = one(FORK)
    assert (fork.what, fork.cpu, fork.seq, fork.timestamp_ns) == (wire.FORK, 1, 0x7D6CC, 0x1C9E659B2B7)
    assert (fork.a, fork.b, fork.c, fork.d) == (26893, 26893, 26894, 26894)
    execve = one(EXEC)
    assert (execve.what, execve.a, execve.b) == (wire.EXEC, 26894, 26894)
    end = one(EXIT)
    assert (end.what, end.a, end.b, end.c, end.d, end.e, end.f) == (
        wire.EXIT,
        26894,
        26894,
        0,
        17,
        26893,
        26893,
    )
    ack = one(ACK)
    assert (ack.what, ack.ack, ack.a) == (wire.NONE, 0x7C5238B6, 0)


def test_order_and_count_of_many() -> None:
    events, malformed = wire.decode(FORK + EXEC + EXIT + ACK)
    assert [event[5] for event in events] == [wire.FORK, wire.EXEC, wire.EXIT, wire.NONE]
    assert malformed == 0


@pytest.mark.parametrize("length", range(1, wire.EVENT_BYTES))
def test_every_truncation_is_a_value(length: int) -> None:
    assert wire.decode(FORK[:length]) == ([], 1)
    events, malformed = wire.decode(EXEC + FORK[:length])
    assert (len(events), malformed) == (1, 1)


@pytest.mark.parametrize("place", [0, 4, 6, 16, 20, 32, 34])
def test_a_wrong_header_is_counted_and_left_out(place: int) -> None:
    wrong = bytearray(EXEC)
    wrong[place] ^= 0xFF
    events, malformed = wire.decode(FORK + bytes(wrong) + EXIT)
    assert [event[5] for event in events] == [wire.FORK, wire.EXIT]
    assert malformed == 1


def test_unknown_types_are_events() -> None:
    event = one(wire.encode_event(0x400, 1, 2))
    assert event.what not in wire.KNOWN


@pytest.mark.parametrize("what", sorted(wire.KNOWN))
def test_what_is_encoded_is_decoded(what: int) -> None:
    event = one(wire.encode_event(what, 1, 2, 3, 4, 5, 6, cpu=7, timestamp_ns=1 << 40, seq=9, ack=10))
    assert event[2:4] == (9, 10)
    assert event[5:] == (what, 7, 1 << 40, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("comm", [b"bash", b"", b") R 1 (", b"a\nb", b"\xff\xfe", b"fifteen-bytes-x"])
def test_comm(comm: bytes) -> None:
    words = [int.from_bytes(comm.ljust(16, b"\0")[n : n + 4], "little") for n in range(0, 16, 4)]
    events, _ = wire.decode(wire.encode_event(wire.COMM, 1, 1, *words))
    assert wire.decode_comm(events[0]) == comm


def test_request_layout() -> None:
    request = wire.encode_request(wire.LISTEN, seq=0x01020304, ack=0x0A0B0C0D)
    assert request == bytes.fromhex(
        "28000000 0300 0000 04030201 00000000 01000000 01000000 04030201 0d0c0b0a 0400 0000 01000000"
    )


@given(st.binary(max_size=400))
def test_anything_at_all_is_counted(data: bytes) -> None:
    events, malformed = wire.decode(data)
    whole, rest = divmod(len(data), wire.EVENT_BYTES)
    assert len(events) + malformed == whole + bool(rest)
