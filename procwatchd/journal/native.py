# SPDX-License-Identifier: MIT
r"""Entries to journald, in its native protocol, on a socket of our own.

Facts:
- One datagram an entry, of fields one after the other: `NAME=value\n`, or for a value with a newline in it
  `NAME\n`, its length (64 bits, little endian), value, `\n` [systemd, JOURNAL_NATIVE_PROTOCOL]. Only
  newlines need the second form: the first ends at the next newline, whatever bytes come before it.
- Names are [A-Z0-9_], at most 64, not starting with a digit; journald drops others in silence, and takes
  those starting with an underscore from nobody.
- A datagram too big for the socket is refused with EMSGSIZE; a memfd with all four seals, sent with
  SCM_RIGHTS and no payload, takes its place.
- A full receive queue is EAGAIN, and poll(POLLOUT) tells when it has room, on a connected socket only.
- Where the receiver ended it is ECONNREFUSED, where the socket's file is missing ENOENT.

So the socket is connected and never blocks. What it does not take is held in order, up to a limit in bytes;
an entry beyond that is lost, and counted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from procwatchd.journal.entry import Entry, FieldValue, OnWritten
from procwatchd.journal.writer import Loss, LossCount

SOCKET = "/run/systemd/journal/socket"
HOLD_BYTES = 64 << 20
ENTRY_BYTES = 16 << 20
# The kernel wants most of a datagram in one piece of memory, which it may never find for a big one.
DATAGRAM_BYTES = 128 << 10
SEND_BUFFER_BYTES = 8 << 20
RECONNECT_SECONDS = 0.1

_SO_SNDBUFFORCE = 32
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
# The receiver's queue, our buffer, the kernel's memory, descriptors in flight: all of these pass.
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class _Prefixes(dict[str, bytes]):
    """`NAME=` by name, checked once. Names are ours and the configuration's, so they are few."""

    def __missing__(self, name: str) -> bytes:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name that journald takes")
        prefix = self[name] = name.encode() + b"="
        return prefix


_prefixes = _Prefixes()


def encode(entry: Entry) -> bytes:
    """The entry in journald's native protocol. ValueError for a field's name that journald would drop."""
    if not entry.shared:
        return _encode(entry.own)
    parts = [_encode(entry.own)]
    for shared in entry.shared:
        if shared.encoded is None:
            shared.encoded = _encode(shared.fields)
        parts.append(shared.encoded)
    return b"".join(parts)


def _encode(fields: dict[str, FieldValue]) -> bytes:
    prefixes = _prefixes
    try:
        lines = [
            prefixes[name] + (value.encode() if value.__class__ is str else value)  # type: ignore[operator]
            for name, value in fields.items()
        ]
    except (TypeError, UnicodeEncodeError):
        return _encode_each(fields)
    lines.append(b"")
    data = b"\n".join(lines)
    # One count over all of it is cheaper than a search in each value.
    return data if data.count(b"\n") == len(fields) else _encode_each(fields)


def _encode_each(fields: dict[str, FieldValue]) -> bytes:
    """What `_encode` does, for any value: with newlines, with surrogates, and repeated ones."""
    parts: list[bytes] = []
    for name, values in fields.items():
        prefix = _prefixes[name]
        for value in values if isinstance(values, list) else (values,):
            data = value.encode("utf-8", "replace") if isinstance(value, str) else value
            if b"\n" in data:
                parts += (prefix[:-1], b"\n", len(data).to_bytes(8, "little"), data, b"\n")
            else:
                parts += (prefix, data, b"\n")
    return b"".join(parts)


class _Sent(Enum):
    """What became of a datagram."""

    YES = "yes"
    LATER = "later"
    NEVER = "never"


class JournaldWriter:
    """Writes to journald at `path`, which may come and go. Holds at most `hold_bytes` of encoded entries.

    `clock` is monotonic, in seconds: how often a new connection is tried. One thread uses it.
    """

    def __init__(
        self,
        path: str | bytes = SOCKET,
        *,
        hold_bytes: int = HOLD_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.written_events = 0
        self.held_events = 0
        self._path = path
        self._hold_bytes = hold_bytes
        self._clock = clock
        self._lost = LossCount()
        self._held: deque[tuple[bytes, int, int, OnWritten]] = deque()  # encoded, events, realtime_usec
        self._held_bytes = 0
        self._socket: socket.socket | None = None
        self._next_connect = 0.0
        self._connect()

    @property
    def broken(self) -> bool:
        """Never: journald comes back."""
        return False

    @property
    def unwritten_events(self) -> int:
        """The events of all entries that were given up."""
        return self._lost.events

    def take_loss(self) -> Loss | None:
        """What was lost since this was last asked; None where nothing was."""
        return self._lost.take()

    def write(self, entry: Entry) -> None:
        """Send the entry, or hold it behind what is held; lost and counted where there is no room for it."""
        data = encode(entry)
        if self._held:
            self.flush()
        sent = _Sent.LATER if self._held else self._send(data)
        if sent is _Sent.YES:
            self.written_events += entry.events
            if entry.on_written is not None:
                entry.on_written()
        elif sent is _Sent.NEVER or not self._hold(data, entry):
            self._lost.add(entry.events, entry.realtime_usec)

    def flush(self) -> None:
        """Send of what is held, in order, as much as journald takes at once."""
        held = self._held
        while held:
            data, events, realtime_usec, on_written = held[0]
            sent = self._send(data)
            if sent is _Sent.LATER:
                return
            held.popleft()
            self._held_bytes -= len(data)
            self.held_events -= events
            if sent is _Sent.YES:
                self.written_events += events
                if on_written is not None:
                    on_written()
            else:
                self._lost.add(events, realtime_usec)

    def wait(self, timeout_seconds: float) -> bool:
        """Send what is held, at most for so long; True when nothing is held any more."""
        deadline = self._clock() + timeout_seconds
        while True:
            self.flush()
            if not self._held:
                return True
            left = deadline - self._clock()
            if left <= 0:
                return False
            self._poll(left)

    def close(self) -> None:
        """Close the socket. What is still held is counted as lost."""
        self._disconnect()
        for _, events, realtime_usec, _ in self._held:
            self._lost.add(events, realtime_usec)
        self._held.clear()
        self._held_bytes = self.held_events = 0

    def _hold(self, data: bytes, entry: Entry) -> bool:
        """Put an entry behind what is held; False where there is no room for it."""
        if len(data) > ENTRY_BYTES or self._held_bytes + len(data) > self._hold_bytes:
            return False
        self._held.append((data, entry.events, entry.realtime_usec, entry.on_written))
        self._held_bytes += len(data)
        self.held_events += entry.events
        return True

    def _send(self, data: bytes) -> _Sent:
        """Send one datagram; a lost connection is made anew, and it is sent again."""
        for _ in range(2):
            connection = self._socket or self._connect()
            if connection is None:
                return _Sent.LATER
            if len(data) > DATAGRAM_BYTES:
                return self._send_big(connection, data)
            try:
                connection.send(data)
            except OSError as error:
                if error.errno in _FULL:
                    return _Sent.LATER
                if error.errno == errno.EMSGSIZE:
                    return self._send_big(connection, data)
                self._disconnect()
            else:
                return _Sent.YES
        return _Sent.LATER

    def _send_big(self, connection: socket.socket, data: bytes) -> _Sent:
        """Send what is too big for a datagram in a sealed memfd."""
        if len(data) > ENTRY_BYTES:
            return _Sent.NEVER
        # Not to fill a memfd each time that the queue turns out to be full.
        if not self._poll(0):
            return _Sent.LATER
        try:
            memfd = _sealed_memfd(data)
        except OSError:
            # No descriptor or no memory left. All other entries would wait behind this one.
            return _Sent.NEVER
        try:
            socket.send_fds(connection, [b""], [memfd])
        except OSError as error:
            if error.errno not in _FULL:
                self._disconnect()
            return _Sent.LATER
        finally:
            os.close(memfd)
        return _Sent.YES

    def _poll(self, timeout_seconds: float) -> bool:
        """Wait until something might be sent: until there is room, or for the next time to connect."""
        poll = select.poll()
        if self._socket is not None:
            poll.register(self._socket, select.POLLOUT)
        else:
            timeout_seconds = min(timeout_seconds, RECONNECT_SECONDS)
        return bool(poll.poll(timeout_seconds * 1000))

    def _connect(self) -> socket.socket | None:
        """A new connection; None where there is none to be had, or the last try was just now."""
        now = self._clock()
        if now < self._next_connect:
            return None
        self._next_connect = now + RECONNECT_SECONDS
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connection.setblocking(False)
            _enlarge_send_buffer(connection)
            connection.connect(self._path)
        except OSError:
            connection.close()
            return None
        self._socket = connection
        return connection

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _enlarge_send_buffer(connection: socket.socket) -> None:
    # The default stops at 167 datagrams, long before journald's own queue is full.
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except OSError:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _sealed_memfd(data: bytes) -> int:
    """A memfd with the data, that nobody can change any more. The caller closes it."""
    memfd = os.memfd_create("procwatchd-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(memfd)
        raise
    return memfd
