# SPDX-License-Identifier: MIT
"""The kernel's filters, run as the kernel runs them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.kernel import filter as kernel_filter
from procwatchd.kernel import taskstats, wire
from procwatchd.kernel.filter import Needs
from procwatchd.kernel.taskstats import LAST, TaskEnd

FAMILY = 0x1F
NOTHING = Needs(threads=False, ptrace=False, coredump=False, tasks=False)

_INSTRUCTION = struct.Struct("=HBBI")
_LOADS = {0x20: 4, 0x28: 2, 0x30: 1}


def run(program: bytes, packet: bytes) -> bool:
    """Whether a program lets a packet pass: a machine for the part of classic BPF that is used."""
    instructions = list(_INSTRUCTION.iter_unpack(program))
    accumulator = index = at = 0
    while True:
        code, then, otherwise, value = instructions[at]
        at += 1
        if code in _LOADS:
            size = _LOADS[code]
            if value + size > len(packet):
                return False
            accumulator = int.from_bytes(packet[value : value + size], "big")
        elif code == 0x80:
            accumulator = len(packet)
        elif code == 0x07:
            index = accumulator
        elif code == 0x06:
            return bool(value)
        else:
            holds = {
                0x15: accumulator == value,
                0x1D: accumulator == index,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += then if holds else otherwise


def passes(needs: Needs, what: int, *union: int) -> bool:
    return run(kernel_filter.events_program(needs), wire.encode_event(what, *union))


needs_of_any_kind = st.builds(Needs, *[st.booleans()] * 4)
# Ids that are the same now and then.
tids = st.sampled_from([1, 0x100, 0x10000, 0x1000000, 0xFFFFFFFF])


def is_needed(needs: Needs, what: int, words: list[int]) -> bool:
    """What the table, and whoever asked, need of the events."""
    if what == wire.FORK:
        return needs.threads or words[2] == words[3]
    if what in (wire.EXIT, wire.COMM):
        return needs.threads or words[0] == words[1]
    wanted = {wire.PTRACE: needs.ptrace, wire.COREDUMP: needs.coredump}
    return wanted.get(what, True)


@given(
    needs_of_any_kind,
    st.sampled_from(sorted(wire.KNOWN)) | st.integers(0, 0xFFFFFFFF),
    st.lists(tids, min_size=6, max_size=6),
)
def test_events_pass_that_are_needed(needs: Needs, what: int, words: list[int]) -> None:
    assert passes(needs, what, *words) == is_needed(needs, what, words)


def test_what_is_always_needed() -> None:
    for what in (wire.NONE, wire.EXEC, wire.UID, wire.GID, 0x400, 0x08000000):
        assert passes(NOTHING, what, 5, 6, 7, 8)
    # The end and the name of a process; and that it begins.
    assert passes(NOTHING, wire.EXIT, 5, 5)
    assert passes(NOTHING, wire.COMM, 5, 5)
    assert passes(NOTHING, wire.FORK, 1, 1, 5, 5)


def test_thread_storms_are_rejected() -> None:
    assert not passes(NOTHING, wire.FORK, 1, 1, 6, 5)
    assert not passes(NOTHING, wire.EXIT, 6, 5)
    assert not passes(NOTHING, wire.COMM, 6, 5)


@given(st.binary(max_size=200).filter(lambda data: len(data) != wire.EVENT_BYTES))
def test_what_is_no_event_is_not_hidden(packet: bytes) -> None:
    assert run(kernel_filter.events_program(NOTHING), packet)


@given(st.sampled_from(sorted(wire.KNOWN)))
def test_events_of_one_type(what: int) -> None:
    assert run(kernel_filter.type_program(wire.EXEC), wire.encode_event(what)) == (what == wire.EXEC)


ends = st.builds(
    TaskEnd,
    tid=tids,
    tgid=tids,
    ppid=st.just(1),
    uid=st.just(0),
    gid=st.just(0),
    comm=st.just(b"prog"),
    status=st.sampled_from([0, 1 << 8, 0xFF00, 9, 0x8B]),
    flags=st.integers(0, 255),
    elapsed_usec=st.integers(0, 1 << 40),
    process_elapsed_usec=st.integers(0, 1 << 40),
    cpu_ns=st.integers(0, 1 << 40),
    memory_peak_bytes=st.just(4096),
    read_bytes=st.integers(0, 1 << 40),
    write_bytes=st.integers(0, 1 << 40),
    group_cpu_ns=st.none() | st.integers(0, 1 << 40),
)


def message(end: TaskEnd, version: int = 16, *, padded: bool = False) -> bytes:
    """A record as the kernel sends it, of the family that is listened to."""
    whole = taskstats.encode(end, version=version, padded=padded)
    return whole[:4] + struct.pack("=H", FAMILY) + whole[6:]


@given(ends, st.sampled_from([12, 13, 14, 16, 17, 255]), st.booleans())
def test_records_pass_that_are_needed(end: TaskEnd, version: int, padded: bool) -> None:
    packet = message(end, version, padded=padded)
    needed = end.tid == end.tgid or bool(end.flags & LAST) or end.status != 0
    assert run(kernel_filter.records_program(FAMILY, NOTHING), packet) == needed
    assert run(kernel_filter.records_program(FAMILY, Needs()), packet)


@given(ends, st.sampled_from([0, 1, 11, 15, 256, 0x0C00]))
def test_records_of_another_layout_pass(end: TaskEnd, version: int) -> None:
    assert run(kernel_filter.records_program(FAMILY, NOTHING), message(end, version))


def thread_end(data: st.DataObject) -> TaskEnd:
    """One whose record is rejected."""
    return data.draw(ends)._replace(tid=6, tgid=5, status=0, flags=0, group_cpu_ns=None)


@given(st.data())
def test_each_truncation_of_a_record_passes(data: st.DataObject) -> None:
    packet = message(thread_end(data))
    known = taskstats.FIRST_STATS_AT + taskstats.KNOWN_BYTES + taskstats.ATTRIBUTE_BYTES
    length = data.draw(st.integers(0, known - 1))
    assert not run(kernel_filter.records_program(FAMILY, NOTHING), packet)
    assert run(kernel_filter.records_program(FAMILY, NOTHING), packet[:length])


@pytest.mark.parametrize(
    ("at", "was"),
    [(taskstats.TYPE_AT, FAMILY), (taskstats.COMMAND_AT, taskstats.CMD_NEW), (22, 4), (34, 3)],
    ids=["family", "command", "aggregate", "statistics"],
)
@given(st.data())
def test_what_is_no_record_is_not_hidden(at: int, was: int, data: st.DataObject) -> None:
    packet = bytearray(message(thread_end(data)))
    assert packet[at] == was
    packet[at] = was + 1
    assert run(kernel_filter.records_program(FAMILY, NOTHING), bytes(packet))


@given(needs_of_any_kind)
def test_programs_are_small(needs: Needs) -> None:
    for program in (kernel_filter.events_program(needs), kernel_filter.records_program(FAMILY, needs)):
        assert len(program) <= 64 * _INSTRUCTION.size


@given(needs_of_any_kind)
def test_where_every_event_is_needed_none_is_rejected(needs: Needs) -> None:
    rejected = [
        what
        for what in (wire.FORK, wire.EXIT, wire.COMM, wire.SID, wire.PTRACE, wire.COREDUMP)
        if not passes(needs, what, 1, 2, 3, 4)
    ]
    assert needs.is_every_event == (not rejected)
