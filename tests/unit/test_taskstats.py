# SPDX-License-Identifier: MIT
"""The accounting's wire format, as bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.kernel import taskstats
from procwatchd.kernel.taskstats import TaskEnd


def spread(length: int, words: str) -> bytes:
    """A message of this length with these bytes in it, each line `offset: bytes`, and zeros elsewhere."""
    message = bytearray(length)
    for line in words.strip().splitlines():
        offset, found = line.split(":")
        piece = bytes.fromhex(found)
        message[int(offset) : int(offset) + len(piece)] = piece
    return bytes(message)


# Captured on Linux 6.18: a process of UID 1000 and GID 1001 that called itself `a name` and ended with 7.
EXITED = spread(
    596,
    """
    0: 54020000 1f000000 65500900
    16: 02010000 40020400 08000100 195a0000 34020300 10000000 00070000 22000000
    52: 03000000
    60: 10ce1200
    108: ad2b0200
    116: 61206e61 6d650000
    156: e8030000 e9030000 195a0000 185a0000 555d016b
    180: 38070000
    204: 36000000
    236: 4c040000
    244: 4c090000
    252: 000c0000
    316: 02000000
    380: 555d016b
    404: 195a0000
    412: 38070000
    420: 00fe0000
    428: b1e42000
    468: cfd90f00
    476: c9100000
    """,
)
# The last task of one that had two threads, each with 50 ms of work.
THREADED = spread(
    1172,
    """
    0: 94040000 1f000000 f3500900
    16: 02010000 40020400 08000100 1a5a0000 34020300 10000000
    44: 20000000
    52: 05000000
    60: 99ce0900
    100: 00093d00
    108: 21ec0800
    116: 6275726e 65720000
    164: 1a5a0000 185a0000 565d016b
    180: 3f870500
    188: a00f0000
    204: 35000000
    228: 0a060000
    236: 64040000
    244: b4490000
    252: 000c0000
    308: 02000000
    316: 02000000
    324: a00f0000
    340: 00093d00
    380: 565d016b
    404: 1a5a0000
    412: 3f870500
    420: 00fe0000
    428: c2e42000
    468: 09750700
    476: 1a060000
    596: 40020500 08000200 1a5a0000 34020300 10000000
    628: 42000000
    636: ca0b7d22
    676: a068b805
    684: 60d0fe05
    756: ebdf0f00
    764: 204e0000
    772: c3280100
    884: 02000000
    892: 3d000000
    916: a068b805
    1044: 09750700
    1052: 1a060000
    """,
)

END = TaskEnd(
    tid=4243,
    tgid=4242,
    ppid=17,
    uid=1000,
    gid=1001,
    comm=b"worker",
    status=0x300,
    flags=taskstats.LAST,
    elapsed_usec=1 << 33,
    process_elapsed_usec=1 << 34,
    cpu_ns=12_345_678,
    memory_peak_bytes=3 << 30,
    read_bytes=1 << 40,
    write_bytes=1 << 41,
    group_cpu_ns=None,
)
THREADED_END = END._replace(group_cpu_ns=98_765_432)

# Where struct taskstats begins in a message without padding.
STATS = 36


def one(message: bytes) -> TaskEnd:
    ends, malformed = taskstats.decode(message)
    assert malformed == 0
    assert len(ends) == 1
    return ends[0]


def patched(message: bytes, offset: int, piece: bytes) -> bytes:
    return message[:offset] + piece + message[offset + len(piece) :]


def test_a_captured_end() -> None:
    assert one(EXITED) == TaskEnd(
        tid=23065,
        tgid=23065,
        ppid=23064,
        uid=1000,
        gid=1001,
        comm=b"a name",
        status=0x700,
        flags=taskstats.LAST | 0x02,
        elapsed_usec=1848,
        process_elapsed_usec=1848,
        cpu_ns=142253,
        memory_peak_bytes=1100 * 1024,
        read_bytes=0,
        write_bytes=0,
        group_cpu_ns=None,
    )


def test_a_captured_end_of_threads() -> None:
    end = one(THREADED)
    assert (end.tid, end.tgid, end.comm, end.flags) == (23066, 23066, b"burner", taskstats.LAST)
    assert (end.cpu_ns, end.group_cpu_ns) == (584737, 100585568)


def test_order_and_count_of_many() -> None:
    ends, malformed = taskstats.decode(EXITED + THREADED + taskstats.encode(END) + EXITED)
    assert [end.tid for end in ends] == [23065, 23066, END.tid, 23065]
    assert malformed == 0


def test_nothing_is_no_end() -> None:
    assert taskstats.decode(b"") == ([], 0)


@pytest.mark.parametrize("end", [END, THREADED_END], ids=["single", "threaded"])
@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("stats_bytes", [400, 416, 432, 560, 688, 1001])
def test_what_is_encoded_is_decoded(end: TaskEnd, padded: bool, stats_bytes: int) -> None:
    message = taskstats.encode(end, padded=padded, stats_bytes=stats_bytes)
    assert one(message) == end
    assert taskstats.decode(message * 3 + EXITED + message) == ([end] * 3 + [one(EXITED), end], 0)


def test_layouts_of_the_same_length_are_told_apart() -> None:
    plain = taskstats.encode(END, stats_bytes=564)
    padded = taskstats.encode(END._replace(tid=1), stats_bytes=560, padded=True)
    assert len(plain) == len(padded)
    ends, malformed = taskstats.decode(plain + padded + padded + plain)
    assert [end.tid for end in ends] == [END.tid, 1, 1, END.tid]
    assert malformed == 0


@pytest.mark.parametrize("version", [12, 13, 14, 16, 17, 200])
def test_versions_with_a_known_layout(version: int) -> None:
    assert one(taskstats.encode(END, version=version)) == END


@pytest.mark.parametrize("version", [0, 1, 10, 11, 15])
def test_versions_with_another_layout_are_malformed(version: int) -> None:
    message = taskstats.encode(END, version=version)
    assert taskstats.decode(message) == ([], 1)
    assert taskstats.decode(EXITED + message + EXITED) == ([one(EXITED)] * 2, 1)


def test_a_struct_without_the_last_fields_is_malformed() -> None:
    assert taskstats.decode(taskstats.encode(END, stats_bytes=383)) == ([], 1)


def test_a_struct_that_has_something_else_for_the_tid_is_malformed() -> None:
    message = patched(taskstats.encode(END), STATS + 128, struct.pack("=I", END.tid + 1))
    assert taskstats.decode(message) == ([], 1)
    assert taskstats.decode(EXITED + message) == ([one(EXITED)], 1)


@pytest.mark.parametrize(
    ("offset", "piece"),
    [
        (4, b"\x02\0"),  # an ACK
        (16, b"\x01"),  # another command
        (20, b"\x03\0"),  # an attribute shorter than its header
        (20, b"\xff\xff"),  # … longer than the message
        (22, b"\x05\0"),  # no AGGR_PID
        (24, b"\x06\0"),  # a PID that is too short
        (26, b"\x02\0"),  # no PID
        (32, b"\x00\0"),  # no room for STATS
        (34, b"\x06\0"),  # no STATS
    ],
)
def test_what_is_no_record_is_counted_and_left_out(offset: int, piece: bytes) -> None:
    message = patched(EXITED, offset, piece)
    assert taskstats.decode(message) == ([], 1)
    assert taskstats.decode(EXITED + message + THREADED) == ([one(EXITED), one(THREADED)], 1)


def test_sums_that_are_too_short_are_malformed() -> None:
    message = patched(THREADED, 608, struct.pack("=H", 100))
    assert taskstats.decode(THREADED + message) == ([one(THREADED)], 1)


@pytest.mark.parametrize("length", range(1, len(EXITED)))
def test_every_truncation_is_a_value(length: int) -> None:
    assert taskstats.decode(EXITED[:length]) == ([], 1)
    assert taskstats.decode(THREADED + EXITED[:length]) == ([one(THREADED)], 1)


@pytest.mark.parametrize("length", [0, 1, 15, 597, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_impossible_length_ends_it(length: int) -> None:
    message = patched(EXITED, 0, struct.pack("=I", length))
    assert taskstats.decode(THREADED + message) == ([one(THREADED)], 1)


def test_lengths_are_rounded_up_to_the_next_message() -> None:
    stub = struct.pack("=IHHII", 17, 31, 0, 0, 0) + b"x\0\0\0"
    assert taskstats.decode(EXITED + stub + EXITED) == ([one(EXITED)] * 2, 1)
    assert taskstats.decode(stub[:17]) == ([], 1)


@pytest.mark.parametrize(
    "comm", [b"bash", b"", b") R 1 (", b"a\nb", b"\xff\xfe", b"fifteen-bytes-x", b"kworker/u8:0-flush-254:0"]
)
def test_comm(comm: bytes) -> None:
    assert one(taskstats.encode(END._replace(comm=comm))).comm == comm


def test_cpu_time_in_ticks_where_there_is_no_better() -> None:
    single = patched(taskstats.encode(THREADED_END), STATS + 72, bytes(8))
    assert one(single)[:10] == THREADED_END[:10]
    assert (one(single).cpu_ns, one(single).group_cpu_ns) == (12_345_000, 98_765_432)
    both = patched(single, STATS + 576 + 72, bytes(8))
    assert (one(both).cpu_ns, one(both).group_cpu_ns) == (12_345_000, 98_765_000)


@given(st.binary(max_size=3000))
def test_anything_at_all_is_counted(data: bytes) -> None:
    ends, malformed = taskstats.decode(data)
    assert bool(ends or malformed) == bool(data)


SAMPLES = (EXITED, THREADED, taskstats.encode(THREADED_END, padded=True))


@given(
    st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), st.integers(0, 255)), max_size=6),
    st.integers(0, 40),
)
def test_mutated_messages_are_values(
    messages: list[bytes], mutations: list[tuple[int, int, int]], cut: int
) -> None:
    """Bytes are changed where the headers of a message are, the only place where a length is believed."""
    mutated = [bytearray(message) for message in messages]
    for offset, n, value in mutations:
        mutated[n % len(mutated)][offset] = value
        if len(mutated[n % len(mutated)]) > 600:
            mutated[n % len(mutated)][596 + offset // 4] = value
    data = b"".join(mutated)[: -cut or None]
    ends, malformed = taskstats.decode(data)
    assert ends or malformed
    # A header takes 16 bytes, a record one and the struct.
    assert malformed * 16 + len(ends) * 420 <= len(data) + 16


@given(
    st.builds(
        TaskEnd,
        *[st.integers(0, (1 << 32) - 1)] * 5,
        st.binary(max_size=31).filter(lambda comm: b"\0" not in comm),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, 255),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 63) - 1).map(lambda size: size * 1024),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
        st.none() | st.integers(0, (1 << 64) - 1),
    )
)
def test_every_value_survives(end: TaskEnd) -> None:
    decoded = one(taskstats.encode(end))
    assert decoded == end
