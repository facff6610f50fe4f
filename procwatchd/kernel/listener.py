# SPDX-License-Identifier: MIT
"""The listener: one thread that does nothing but receive.

It takes from the socket whatever is there and hands it over as batches. It never reads /proc, never logs, never
waits for the queue. What comes is left to gather for a moment, so that all wake once for many: what cannot wait, the
reading of /proc for an EXEC, does not wait for it (see bell.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from procwatchd.kernel import wire
from procwatchd.kernel.connector import BULK, Connector, Received
from procwatchd.kernel.queue import Batch, BatchQueue

GATHER_SECONDS = 0.02
# With a small buffer (the kernel gives it to whoever may not have more) there is no room to let much gather.
SMALL_BUFFER_BYTES = 4 << 20
SMALL_GATHER_SECONDS = 0.001
IDLE_SECONDS = 1.0

# More bulks than the socket's buffer can hold.
DRAIN_BULKS = 512


class Listener:
    """Owns the connector from `start` to `stop`.

    `running` says whether its thread is; `progress` grows at least once a second while that is not stuck; `error` is
    what the kernel refused, if that ended it. `received` counts the datagrams taken from the socket, without those
    the queue had no room for.
    """

    def __init__(self, connector: Connector, batches: BatchQueue) -> None:
        self.running = False
        self.progress = 0
        self.received = 0
        self.error: OSError | None = None
        self._connector = connector
        self._batches = batches
        self._foreign = 0
        self._odd = 0
        self._queue_lost = 0
        small = connector.receive_buffer_bytes < SMALL_BUFFER_BYTES
        self._gather_seconds = SMALL_GATHER_SECONDS if small else GATHER_SECONDS
        self._stopping = False
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self, early: list[Received], on_end: Callable[[], None]) -> None:
        """Begin to receive; `early` is what came while subscribing. The thread calls `on_end` last."""
        for received in early:
            self._hand_over(received)
        self._on_end = on_end
        self.running = True
        self._thread.start()

    def stop(self) -> None:
        """Take what the socket still has, hand it over, and end the thread. The connector stays open."""
        self._stopping = True
        # The kernel tells of our own threads too: starting one is an event that ends the waiting.
        waker = threading.Thread(target=lambda: None)
        waker.start()
        waker.join()
        self._thread.join()

    def _run(self) -> None:
        connector = self._connector
        busy = True
        try:
            while not self._stopping:
                self.progress += 1
                if busy or connector.wait(IDLE_SECONDS):
                    time.sleep(self._gather_seconds)
                    busy = self._take()
            self._take()
        except OSError as error:
            self.error = error
        finally:
            # The totals as they are in the end, should the last batches not have found room.
            self._hand_over(Received(b""))
            self.running = False
            self._on_end()

    def _take(self) -> bool:
        """Take what the socket holds, bounded, since under load there is always more; whether there was anything."""
        for n in range(DRAIN_BULKS):
            received = self._connector.receive()
            if received is None:
                return n > 0
            self._hand_over(received)
            if len(received.datagrams) < BULK * wire.EVENT_BYTES:
                break
        return True

    def _hand_over(self, received: Received) -> None:
        count = len(received.datagrams) // wire.EVENT_BYTES
        self._foreign += received.foreign
        self._odd += received.odd
        self.received += received.foreign + received.odd
        batch = Batch(
            received.datagrams, self._foreign, self._odd, self._connector.kernel_drops(), self._queue_lost
        )
        # Before it is handed over: nobody may find more worked off than was received.
        self.received += count
        if not self._batches.put(batch):
            self.received -= count
            self._queue_lost += count
