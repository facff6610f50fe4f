# SPDX-License-Identifier: MIT
"""The listener: one thread that does nothing but receive.

It takes from its sockets whatever is there and hands it over as batches: the connector's events, then the records of
ended tasks and the recordings, since what belongs to an event was queued before it. It never reads /proc, never logs,
never waits for the queue. What comes is left to gather for a moment, so that all wake once for many: what cannot wait,
the reading of /proc for an EXEC that is not recorded, does not wait for it (see bell.py).
"""

from __future__ import annotations

import select
import struct
import threading
from collections.abc import Callable

from procwatchd.kernel import wire
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.connector import BULK, Connector, Received
from procwatchd.kernel.heartbeat import Blindness, Heartbeat
from procwatchd.kernel.marks import Marks
from procwatchd.kernel.priority import run_in_real_time
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.recorder import NO_RECORDINGS, Recorder, Recordings

# How long what comes is let gather; longer where all is recorded, and nothing waits for the next batch to be believed.
GATHER_SECONDS = 0.02
RECORDED_GATHER_SECONDS = 0.04
# With a small buffer (the kernel gives it to whoever may not have more) there is no room to let much gather.
SMALL_BUFFER_BYTES = 4 << 20
SMALL_GATHER_SECONDS = 0.001
IDLE_SECONDS = 10.0

# Where so many came there will be more: then nobody asks before looking again.
BUSY_EVENTS = 32

# What may be in the queue before long recordings of execs have no room there, and before short ones have none.
LONG_FILL, SHORT_FILL = 0.5, 0.75
SHORT_BYTES = 2048

# More bulks than the socket's buffer can hold.
DRAIN_BULKS = 512

_TIMESTAMP = struct.Struct("=Q")


class Listener:
    """Owns the connector, and `accounting` and `recorder` where there are such, from `start` to `stop`.

    `running` says whether its thread is; `progress` grows soon after a `poke` while that is not stuck; `error` is what
    the kernel refused, if that ended it.
    """

    def __init__(
        self,
        connector: Connector,
        batches: BatchQueue,
        accounting: Accounting | None = None,
        recorder: Recorder | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.running = False
        self.progress = 0
        self.error: OSError | None = None
        self._connector = connector
        self._accounting = accounting
        self._recorder = recorder
        self._batches = batches
        self._heartbeat = Heartbeat(connector, lambda _blindness: None)
        self._last = b""
        self._foreign = 0
        self._odd = 0
        self._queue_lost = 0
        # What the queue had no room for: whoever comes after us goes on to count.
        self._lost = (marks or Marks()).words
        small = connector.receive_buffer_bytes < SMALL_BUFFER_BYTES
        usual = GATHER_SECONDS if recorder is None else RECORDED_GATHER_SECONDS
        self._gather_seconds = SMALL_GATHER_SECONDS if small else usual
        self._is_crowded = False
        self._crowd = select.poll()
        if recorder is not None:
            self._crowd.register(recorder, select.POLLIN)
        self._stopping = False
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        if accounting is not None:
            connector.wait_for(accounting.fileno())

    def start(
        self, early: list[Received], on_end: Callable[[], None], on_blindness: Callable[[Blindness], None]
    ) -> None:
        """Begin to receive; `early` is what came while subscribing.

        The thread calls `on_end` last, and `on_blindness` when it begins and when it ends; neither may wait.
        """
        self._heartbeat = Heartbeat(self._connector, on_blindness)
        for received in early:
            self._hand_over(received)
        self._on_end = on_end
        self.running = True
        self._thread.start()

    def stop(self) -> None:
        """Take what the sockets still have, hand it over, and end the thread. They stay open."""
        self._stopping = True
        self._connector.wake()
        self._thread.join()

    def poke(self) -> None:
        """Have the thread show that it is not stuck. From any thread."""
        self._connector.wake()

    def doubt(self) -> None:
        """Somebody else spoke to the kernel: make sure that it still tells us. From any thread."""
        self._heartbeat.hurry()
        self._connector.wake()

    def _run(self) -> None:
        if self._recorder is None:
            # Whoever races must not wait for what we hold, the interpreter's lock. There is little to do here.
            run_in_real_time()
        connector, heartbeat = self._connector, self._heartbeat
        busy = True
        try:
            while not self._stopping:
                self.progress += 1
                heartbeat.beat()
                if heartbeat.is_waiting:
                    busy = self._take()  # the answer is there
                elif busy or connector.wait(heartbeat.patience(IDLE_SECONDS)):
                    self._gather()
                    busy = self._take()
            self._take()
        except OSError as error:
            self.error = error
        finally:
            try:
                # The totals as they are in the end, should the last batches not have found room.
                self._hand_over(Received(b""), is_final=True)
            except OSError as error:
                self.error = self.error or error
            finally:
                self.running = False
                self._on_end()

    def _gather(self) -> None:
        """Let more come for a moment; a shorter one where a ring of the recorder gets full."""
        self._is_crowded = bool(self._crowd.poll(self._gather_seconds * 1000))

    def _take(self) -> bool:
        """Take what the socket holds, bounded, since under load there is always more; whether there may be more."""
        heartbeat = self._heartbeat
        for n in range(DRAIN_BULKS):
            received = self._connector.receive()
            if received is None:
                heartbeat.conclude(self._last_event_ns())
                # Of tasks that end without an EXIT of theirs, or while we are blind, the records come alone.
                self._hand_over(Received(b""))
                return n > 0
            if heartbeat.is_waiting:
                heartbeat.look(received.datagrams)
            self._hand_over(received)
            if received.total < BULK and not heartbeat.is_waiting:
                return received.total >= BUSY_EVENTS
        return True

    def _last_event_ns(self) -> int:
        """The time of the last event there was; 0 where there was none."""
        return int(_TIMESTAMP.unpack_from(self._last, wire.TIMESTAMP_OFFSET)[0]) if self._last else 0

    def _hand_over(self, received: Received, *, is_final: bool = False) -> None:
        """Hand over what came, with what belongs to it; but nothing where there is nothing new."""
        self._foreign += received.foreign
        self._odd += received.odd
        self._last = received.datagrams[-wire.EVENT_BYTES :] or self._last
        drops = self._connector.kernel_drops()
        records, count = self._records()
        recorder, recordings, lost, own = self._recorder, NO_RECORDINGS, (0, 0, 0), self._lost
        if recorder is not None:
            # In this order: so what was recorded before a loss that shows here is here, too.
            lost = (recorder.lost_execs, recorder.lost_signals, recorder.lost_pending)
            recordings = self._limited(recorder.drain())
            lost = (lost[0] + own[Marks.QUEUE_EXECS], lost[1] + own[Marks.QUEUE_SIGNALS], lost[2])
            if self._is_crowded:
                # What was told once goes on to be told until somebody looks while there is nothing.
                self._is_crowded = bool(self._crowd.poll(0))
        if not (any(received) or records or any(recordings) or is_final):
            return
        batch = Batch(
            received.datagrams,
            self._foreign,
            self._odd,
            drops,
            self._queue_lost,
            records,
            0 if self._accounting is None else own[Marks.QUEUE_RECORDS] + self._accounting.drops(),
            recordings,
            *lost,
        )
        if not self._batches.put(batch):
            self._queue_lost += len(received.datagrams) // wire.EVENT_BYTES
            self._lost[Marks.QUEUE_RECORDS] += count
            self._lose(recordings)

    def _limited(self, recordings: Recordings) -> Recordings:
        """What of it may have room in the queue: whoever makes them long must not cost others theirs, nor events."""
        fill = self._batches.fill
        if fill < LONG_FILL:
            return recordings
        short = [item for item in recordings.execs if len(item) <= SHORT_BYTES] if fill < SHORT_FILL else []
        self._lost[Marks.QUEUE_EXECS] += len(recordings.execs) - len(short)
        return Recordings(short, recordings.signals)

    def _lose(self, recordings: Recordings) -> None:
        self._lost[Marks.QUEUE_EXECS] += len(recordings.execs)
        self._lost[Marks.QUEUE_SIGNALS] += len(recordings.signals)

    def _records(self) -> tuple[bytes, int]:
        """The records of ended tasks that are there, and how many; bounded like the events."""
        pieces: list[bytes] = []
        total = 0
        if self._accounting is not None:
            for _ in range(DRAIN_BULKS):
                received = self._accounting.receive()
                if received is None:
                    break
                messages, count = received
                pieces.append(messages)
                total += count
        return b"".join(pieces), total
