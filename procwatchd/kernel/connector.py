# SPDX-License-Identifier: MIT
"""The socket on the kernel's proc connector: open, subscribe, receive in bulk.

Facts:
- Only an ACK proves a subscription: from another user or pid namespace LISTEN is silently ignored, from another
  network namespace sending fails with ECONNREFUSED [drivers/connector/cn_proc.c, cn_proc_mcast_ctl()].
- ACKs are broadcast; ours is the one whose `ack` is our request's plus one.
- Each ACK goes through the same counter of listeners as the events: where somebody has broken that counter, neither
  comes. It is there when send(2) returns, or was dropped for want of room [cn_proc_ack()].
- Up to Linux 6.5 each LISTEN raises the counter; from 6.6 on a socket counts once, its second LISTEN changes nothing,
  but one after another operation counts again. IGNORE lowers it; closing lowers nothing [drivers/connector/cn_proc.c].
- /proc/net/connector has a line `cn_proc 1:1` where process events are compiled in.
- A process with CAP_NET_ADMIN can multicast events of its own.

So all datagrams of one call land in one flat buffer at a stride of 76 bytes, and their headers and
senders are compared to what a flawless receive would have left there: two comparisons of memory a call,
however many events. Only where these differ the messages are looked at one by one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import sys
import threading
import time
from typing import NamedTuple

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import cpus, netlink, wire
from procwatchd.kernel import filter as kernel_filter
from procwatchd.kernel.marks import Marks

RECEIVE_BUFFER_BYTES = 64 << 20
ACK_SECONDS = 2.0
BULK = 1024
# How many times the counter of listeners is raised in a row at most.
RAISES = 10_000

_NETLINK_CONNECTOR = 11
_GROUP = 1 << (wire.CN_IDX_PROC - 1)


class Received(NamedTuple):
    """What came at once: the kernel's datagrams of the right size, end to end, and how many others there were."""

    datagrams: bytes
    foreign: int = 0
    odd: int = 0

    @property
    def total(self) -> int:
        """How many there were."""
        return len(self.datagrams) // wire.EVENT_BYTES + self.foreign + self.odd


class BulkReceiver:
    """Takes many datagrams a call from a netlink socket, without waiting. One thread uses it."""

    def __init__(self, fileno: int) -> None:
        self._slots = slots = netlink.Slots(fileno, BULK, wire.EVENT_BYTES, groups=_GROUP)
        for n in range(BULK):
            slots.lengths[n] = wire.EVENT_BYTES
        self._flawless_headers = bytes(slots.headers)

    def receive(self) -> Received | None:
        """What the socket has, at most BULK datagrams; None where it has nothing."""
        slots = self._slots
        count = slots.receive()
        if count == 0:
            return None
        size = count * netlink.HEADER_BYTES
        is_flawless = bytes(slots.headers[:size]) == self._flawless_headers[:size]
        if is_flawless and slots.are_from_kernel(count):
            return Received(bytes(slots.data[: count * wire.EVENT_BYTES]))
        return self._sort_out(count)

    def _sort_out(self, count: int) -> Received:
        """Keep the kernel's datagrams of the right size, count the others."""
        slots = self._slots
        kept: list[memoryview] = []
        foreign = odd = 0
        for n in range(count):
            if not slots.is_from_kernel(n):
                foreign += 1
            elif slots.lengths[n] != wire.EVENT_BYTES or slots.flags[n] & socket.MSG_TRUNC:
                odd += 1
            else:
                kept.append(slots.data[n * wire.EVENT_BYTES : (n + 1) * wire.EVENT_BYTES])
        return Received(b"".join(kept), foreign, odd)


class Connector:
    """A subscribed socket on the proc connector; `kept` is the descriptor of one that was subscribed before us.

    `was_deaf` where the kernel told that one of nothing any more, at some time after `heard_until_ns`.

    `receive_buffer_bytes` is what was granted; `receive_buffer_wanted` what was asked for. What it asks, and what a
    former one had asked and been told, is in `marks`.
    """

    def __init__(
        self,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
        *,
        kept: int | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.receive_buffer_wanted = receive_buffer_bytes
        self.is_kept = kept is not None
        self.was_deaf = False
        marks = marks or Marks()
        self.heard_until_ns = marks.words[Marks.RECEIVED_NS]
        (self._drops_before,) = marks.told(Marks.DROPS, is_kept=self.is_kept)
        self._marks = marks.words
        self._socket = open_socket() if kept is None else socket.socket(fileno=kept)
        self.receive_buffer_bytes = netlink.grow_buffer(self._socket, receive_buffer_bytes)
        self._receiver = BulkReceiver(self._socket.fileno())
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wake, select.POLLIN)
        # Numbers of our own, since every listener gets every ACK; after those of whoever had the socket before.
        self._first_number = self._marks[Marks.ASKED] if self.is_kept else time.monotonic_ns() % _NUMBERS
        self._asked = 0
        self._lock = threading.Lock()

    def narrow(self, needs: kernel_filter.Needs) -> None:
        """Have the kernel reject what is not needed, from now on; from any thread. Raises KernelError."""
        kernel_filter.attach(self._socket, kernel_filter.events_program(needs))

    def wait_for(self, fileno: int) -> None:
        """Have `wait` end where this descriptor can be read, too."""
        self._poller.register(fileno, select.POLLIN)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for an event, a `wake`, or whatever else is waited for; whether one came."""
        ready = self._poller.poll(timeout_seconds * 1000)
        if (self._wake, select.POLLIN) in ready:
            os.eventfd_read(self._wake)
        return bool(ready)

    def wake(self) -> None:
        """End the wait, or the next one; from any thread."""
        os.eventfd_write(self._wake, 1)

    def receive(self) -> Received | None:
        """What is there, in bulk and without waiting; None where nothing is."""
        received = self._receiver.receive()
        if received is not None:
            # At once: what is in no socket any more must be in this count.
            self._marks[Marks.RECEIVED] += received.total
            self._marks[Marks.RECEIVED_NS] = time.monotonic_ns()
        return received

    def fileno(self) -> int:
        """The socket's descriptor, to be kept."""
        return self._socket.fileno()

    def kernel_drops(self) -> int:
        """How many datagrams the socket had no room for, that nobody before us told of (32 bits)."""
        return (netlink.drops(self._socket) - self._drops_before) & 0xFFFFFFFF

    def subscribe(self, *, timeout_seconds: float = ACK_SECONDS) -> list[Received]:
        """Ask for events until the ACK comes that proves it; gives what came before and with the ACK.

        Raises KernelError where the kernel does not answer or cannot, DeniedError where it refuses.
        """
        early: list[Received] = []
        deadline = time.monotonic() + timeout_seconds
        try:
            asked = self._ask_again(early) if self.is_kept else self._send(wire.LISTEN)
            while (answer := self._answer(asked, early)) is None and time.monotonic() < deadline:
                # Nobody may listen here, or somebody has broken the counter before us.
                self.was_deaf = self.is_kept
                asked = self._raise_counter()
                time.sleep(0.001)
        except ConnectionRefusedError as error:
            raise KernelError(_OTHER_NETWORK) from error
        except PermissionError as error:
            raise DeniedError(_DENIED) from error
        # Up to 6.5 what asks for a proof alone is refused with EINVAL, whoever asks.
        is_proof = self.is_kept and not _COUNTS_SOCKETS and answer == errno.EINVAL
        if answer == 0 or is_proof:
            return early
        if answer in (errno.EPERM, errno.EACCES):
            raise DeniedError(_DENIED)
        if answer is None:
            raise KernelError(_why_not("the kernel did not acknowledge the subscription to process events"))
        raise KernelError(f"the kernel refuses process events: {os.strerror(answer)}")

    def ask(self) -> int:
        """Ask the kernel for an ACK, in the way that changes nothing; gives the ACK's number.

        The ACK is in the socket when this returns, or was dropped there, or the kernel hears nobody any more. From
        any thread. Raises OSError.
        """
        return self._send(_HEARTBEAT)

    def ask_on_every_cpu(self) -> int:
        """Ask once on each CPU this thread may run on, so that its sequence number is known; gives the last ACK's.

        CPUs that were isolated are left in peace.
        """
        allowed = os.sched_getaffinity(0)
        asked = self.ask()
        try:
            for cpu in sorted(allowed - cpus.isolated()):
                try:
                    os.sched_setaffinity(0, {cpu})
                except OSError:
                    continue  # it was just unplugged
                asked = self.ask()
        finally:
            os.sched_setaffinity(0, allowed)
        return asked

    def is_ours(self, ack: int) -> bool:
        """Whether an ACK with this number answers one of this socket's requests."""
        return 0 < (ack - self._first_number) % _NUMBERS <= self._asked

    def was_ours(self, ack: int) -> bool:
        """Whether it answers a request of whoever had the socket before."""
        return self.is_kept and (self._first_number - ack) % _NUMBERS < _REMEMBERED

    def win_back(self) -> int:
        """Raise a counter of listeners that others have lowered until something comes; gives the last ACK's number.

        The socket must be drained. Ends after many times, for whatever else is to be done.
        """
        asked = 0
        for _ in range(RAISES):
            asked = self._raise_counter()
            if self.wait(0):
                break
        return asked

    def close(self, *, stays: bool = False) -> None:
        """Close the socket, and see to it that the kernel forgets the subscription, but where it `stays` for others."""
        with contextlib.suppress(OSError):
            if not stays:
                self._send(wire.IGNORE)
        self._socket.close()
        os.close(self._wake)

    def _send(self, operation: int) -> int:
        with self._lock:
            self._asked += 1
            number = (self._first_number + self._asked) % _NUMBERS
            request = wire.encode_request(
                operation, seq=os.getpid() & 0x7FFFFFFF, ack=(number - 1) % _NUMBERS
            )
            self._marks[Marks.ASKED] = number
            self._socket.send(request)
        return number

    def _ask_again(self, early: list[Received]) -> int:
        """Ask for the proof of a subscription that there is; to subscribe a second time would count twice."""
        # For the answer to the first there may have been no room.
        self._answer(self.ask(), early)
        return self.ask()

    def _raise_counter(self) -> int:
        self._send(wire.NO_OPERATION)
        return self._send(wire.LISTEN)

    def _answer(self, asked: int, early: list[Received]) -> int | None:
        """The errno (0 for success) of an ACK, if it is there; what is received on the way goes to `early`."""
        while (received := self.receive()) is not None:
            early.append(received)
            answer = find_ack(received.datagrams, asked)
            if answer is not None:
                return answer
        return None


def find_ack(datagrams: bytes, number: int) -> int | None:
    """The errno (0 for success) of the acknowledgement with this number, if it is there."""
    wanted = number.to_bytes(4, sys.byteorder)
    place = datagrams.find(wanted)
    while place >= 0:
        start = place - wire.ACK_OFFSET
        if start >= 0 and start % wire.EVENT_BYTES == 0:
            events, _malformed = wire.decode(datagrams[start : start + wire.EVENT_BYTES])
            if events and events[0][5] == wire.NONE:
                return events[0][8]
        place = datagrams.find(wanted, place + 1)
    return None


def _counts_sockets() -> bool:
    """Whether this kernel counts each socket once, as from 6.6 on."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= (6, 6)


_COUNTS_SOCKETS = _counts_sockets()


def may_lower(error: int) -> bool:
    """Whether the operation of another program that had this errno may lower the counter of listeners, or make it so.

    From 6.6 on it takes one that is refused first, before that a mere IGNORE; a heartbeat is the other one each time.
    """
    return bool(error) == _COUNTS_SOCKETS


_HEARTBEAT = wire.LISTEN if _COUNTS_SOCKETS else wire.NO_OPERATION
_NUMBERS = 1 << 32
# Of these some may still be in a socket that was kept.
_REMEMBERED = 1 << 20

_DENIED = "no permission to subscribe to process events: run as root, or with CAP_NET_ADMIN in the initial namespaces"


_OTHER_NETWORK = (
    "the kernel sends process events to the initial network namespace only: run it on the host, not in a "
    "container, and without PrivateNetwork="
)


def open_socket() -> socket.socket:
    """A socket of the connector's group. Raises KernelError or DeniedError."""
    try:
        return netlink.open_socket(_NETLINK_CONNECTOR, groups=_GROUP)
    except PermissionError as error:
        raise DeniedError(_DENIED) from error
    except OSError as error:
        raise KernelError(_why_not(f"cannot open a socket for process events: {error.strerror}")) from error


def _why_not(what: str) -> str:
    """A sentence on what is missing, from what can be seen from here."""
    if not _has_cn_proc():
        return f"{what}: this kernel has no process events (CONFIG_PROC_EVENTS; no cn_proc in /proc/net/connector)"
    inside = [name for name, initial in _INITIAL_NAMESPACES if _namespace(name) not in (None, initial)]
    if inside:
        return f"{what}: not in the initial {' and '.join(inside)} namespace; run it on the host, not in a container"
    return (
        f"{what}: not in the initial namespaces, or another program holds the connector's subscription back"
    )


# PROC_USER_INIT_INO, PROC_PID_INIT_INO [include/uapi/linux/nsfs.h]; the network namespace has no fixed number.
_INITIAL_NAMESPACES = (("user", 0xEFFFFFFD), ("pid", 0xEFFFFFFC))


def _namespace(name: str) -> int | None:
    try:
        return os.stat(f"/proc/self/ns/{name}").st_ino
    except OSError:
        return None


def _has_cn_proc() -> bool:
    try:
        with open("/proc/net/connector", "rb") as file:
            return any(line.split()[:1] == [b"cn_proc"] for line in file)
    except OSError:
        return False
