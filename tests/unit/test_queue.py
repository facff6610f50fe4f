# SPDX-License-Identifier: MIT
"""The bounded queue."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

import pytest

from procwatchd.kernel.queue import TAKE_BYTES, Batch, BatchQueue
from procwatchd.kernel.recorder import Recordings


@pytest.fixture
def queue() -> Iterator[BatchQueue]:
    with contextlib.closing(BatchQueue(limit_bytes=10)) as queue:
        yield queue


def is_ready(queue: BatchQueue) -> bool:
    return bool(select.select([queue], [], [], 0)[0])


def test_first_in_first_out(queue: BatchQueue) -> None:
    assert not is_ready(queue)
    assert queue.put(Batch(b"one"))
    assert queue.put(Batch(b"two"))
    assert queue.waiting_bytes == 6
    assert is_ready(queue)
    assert [batch.datagrams for batch in queue.get()] == [b"one", b"two"]
    assert queue.waiting_bytes == 0
    assert queue.get() == []
    assert not is_ready(queue)


def test_what_does_not_fit_is_refused(queue: BatchQueue) -> None:
    assert queue.put(Batch(b"12345678"))
    assert not queue.put(Batch(b"abc"))
    assert queue.put(Batch(b"ab"))
    assert queue.get() == [Batch(b"12345678"), Batch(b"ab")]
    assert queue.put(Batch(b"abc"))


def test_wake_ends_a_wait(queue: BatchQueue) -> None:
    queue.wake()
    assert is_ready(queue)
    assert queue.get() == []
    assert not is_ready(queue)


def test_a_long_queue_is_taken_in_parts() -> None:
    with contextlib.closing(BatchQueue()) as queue:
        for _ in range(5):
            queue.put(Batch(bytes(TAKE_BYTES // 2)))
        taken = []
        while is_ready(queue):
            taken.append(len(queue.get()))
        assert taken == [2, 2, 1]


def test_records_and_recordings_take_room_as_events_do(queue: BatchQueue) -> None:
    batch = Batch(b"1", records=b"23", recordings=Recordings([b"4", b"56"], [b"78"]))
    assert batch.size_bytes == 8
    assert queue.put(batch)
    assert queue.waiting_bytes == 8
    for more in (
        Batch(b"", recordings=Recordings([b"abc"], [])),
        Batch(b"", recordings=Recordings([], [b"abc"])),
    ):
        assert not queue.put(more)
    assert queue.put(Batch(b"", recordings=Recordings([b"a"], [b"b"])))
    assert queue.get()[0] is batch
    assert (queue.waiting_bytes, queue.is_empty) == (0, True)


def test_recordings_alone_are_taken_in_parts_too() -> None:
    with contextlib.closing(BatchQueue()) as queue:
        for _ in range(3):
            queue.put(Batch(b"", recordings=Recordings([bytes(TAKE_BYTES)], [])))
        assert [len(queue.get()) for _ in range(4)] == [1, 1, 1, 0]
