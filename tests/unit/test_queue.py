# SPDX-License-Identifier: MIT
"""The bounded queue."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

import pytest

from procwatchd.kernel.queue import TAKE_BYTES, Batch, BatchQueue


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
