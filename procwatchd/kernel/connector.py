# SPDX-License-Identifier: MIT
"""The socket on the kernel's proc connector: open, subscribe, receive in bulk.

Facts:
- Only an ACK proves a subscription: from another user or pid namespace LISTEN is silently ignored, from another
  network namespace sending fails with ECONNREFUSED [drivers/connector/cn_proc.c, cn_proc_mcast_ctl()].
- ACKs are broadcast; ours is the one whose `ack` is our request's plus one.
- /proc/net/connector has a line `cn_proc 1:1` where process events are compiled in.
- In the default mode the first overrun drops everything until the queue is empty; with NETLINK_NO_ENOBUFS only
  what does not fit [net/netlink/af_netlink.c, netlink_overrun()].
- SO_MEMINFO word 8 counts the socket's drops, exactly.
- A process with CAP_NET_ADMIN can multicast events of its own: only the sender's address tells. A connected
  netlink socket refuses unicast from anybody but its peer, here the kernel (0).
- recvmmsg(2) takes up to 1024 datagrams a call, and through ctypes leaves the interpreter to others meanwhile.

So all datagrams of one call land in one flat buffer at a stride of 76 bytes, and their headers and
senders are compared to what a flawless receive would have left there: two comparisons of memory a call,
however many events. Only where these differ the messages are looked at one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import time
from typing import NamedTuple

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import wire

RECEIVE_BUFFER_BYTES = 64 << 20
ACK_SECONDS = 2.0
BULK = 1024

_NETLINK_CONNECTOR = 11
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")

# struct sockaddr_nl { u16 family; u16 pad; u32 pid; u32 groups; };
_ADDRESS = struct.Struct("=HHII")
_FROM_KERNEL = _ADDRESS.pack(socket.AF_NETLINK, 0, 0, 1 << (wire.CN_IDX_PROC - 1))


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    # struct msghdr, as in recvmsg(2)
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    # struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    _fields_ = (("header", _MsgHdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)


class Received(NamedTuple):
    """What came at once: the kernel's datagrams of the right size, end to end, and how many others there were."""

    datagrams: bytes
    foreign: int = 0
    odd: int = 0


class BulkReceiver:
    """Takes many datagrams a call from a netlink socket, without waiting. One thread uses it."""

    def __init__(self, fileno: int, *, bulk: int = BULK) -> None:
        self._fileno = fileno
        self._bulk = bulk
        self._data = ctypes.create_string_buffer(bulk * wire.EVENT_BYTES)
        self._names = ctypes.create_string_buffer(bulk * _ADDRESS.size)
        self._headers = (_MMsgHdr * bulk)()
        self._vectors = (_IoVec * bulk)()
        data, names = ctypes.addressof(self._data), ctypes.addressof(self._names)
        for n, (message, vector) in enumerate(zip(self._headers, self._vectors, strict=True)):
            header = message.header
            vector.base = data + n * wire.EVENT_BYTES
            vector.len = wire.EVENT_BYTES
            header.name = names + n * _ADDRESS.size
            header.namelen = _ADDRESS.size
            header.iov = ctypes.pointer(vector)
            header.iovlen = 1
        self._data_view = memoryview(self._data).cast("B")
        self._names_view = memoryview(self._names).cast("B")
        self._headers_view = memoryview(self._headers).cast("B")
        self._pristine = bytes(self._headers_view)
        for message in self._headers:
            message.len = wire.EVENT_BYTES
        self._flawless_headers = bytes(self._headers_view)
        self._flawless_names = _FROM_KERNEL * bulk
        self._recvmmsg = _libc.recvmmsg
        self._recvmmsg.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        )
        self._address = ctypes.addressof(self._headers)

    def receive(self) -> Received | None:
        """What the socket has, at most `bulk` datagrams; None where it has nothing."""
        count = self._recvmmsg(self._fileno, self._address, self._bulk, socket.MSG_DONTWAIT, None)
        if count <= 0:
            error = ctypes.get_errno()
            if count == 0 or error in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
                return None
            raise OSError(error, os.strerror(error))
        headers_bytes = count * ctypes.sizeof(_MMsgHdr)
        names_bytes = count * _ADDRESS.size
        if (
            bytes(self._headers_view[:headers_bytes]) == self._flawless_headers[:headers_bytes]
            and bytes(self._names_view[:names_bytes]) == self._flawless_names[:names_bytes]
        ):
            return Received(bytes(self._data_view[: count * wire.EVENT_BYTES]))
        return self._sort_out(count)

    def _sort_out(self, count: int) -> Received:
        """Keep the kernel's datagrams of the right size, count the others."""
        kept: list[memoryview] = []
        foreign = odd = 0
        for n in range(count):
            message = self._headers[n]
            header = message.header
            _family, _pad, sender, _groups = _ADDRESS.unpack_from(self._names, n * _ADDRESS.size)
            if sender != 0 or header.namelen != _ADDRESS.size:
                foreign += 1
            elif message.len != wire.EVENT_BYTES or header.flags & socket.MSG_TRUNC:
                odd += 1
            else:
                kept.append(self._data_view[n * wire.EVENT_BYTES : (n + 1) * wire.EVENT_BYTES])
        received = Received(b"".join(kept), foreign, odd)
        self._headers_view[:] = self._pristine
        return received


class Connector:
    """A subscribed socket on the proc connector.

    `receive_buffer_bytes` is what was granted; `receive_buffer_wanted` what was asked for.
    """

    def __init__(self, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self.receive_buffer_wanted = receive_buffer_bytes
        self._socket = open_socket()
        self.receive_buffer_bytes = _grow_buffer(self._socket, receive_buffer_bytes)
        self._receiver = BulkReceiver(self._socket.fileno())
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for an event; whether one came."""
        return bool(self._poller.poll(timeout_seconds * 1000))

    def receive(self) -> Received | None:
        """What is there, in bulk and without waiting; None where nothing is."""
        return self._receiver.receive()

    def kernel_drops(self) -> int:
        """How many datagrams the socket had no room for since it was opened (32 bits, as the kernel counts)."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(raw)[8])

    def subscribe(self, *, timeout_seconds: float = ACK_SECONDS) -> list[Received]:
        """Ask for events and wait for the ACK that proves it; gives what came before and with the ACK.

        Raises KernelError where the kernel does not answer or cannot, DeniedError where it refuses.
        """
        seq = os.getpid() & 0x7FFFFFFF
        ack = time.monotonic_ns() & 0x7FFFFFFF
        try:
            self._socket.send(wire.encode_request(wire.LISTEN, seq=seq, ack=ack))
        except ConnectionRefusedError as error:
            raise KernelError(_OTHER_NETWORK) from error
        except PermissionError as error:
            raise DeniedError(_DENIED) from error
        early: list[Received] = []
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            received = self.receive()
            if received is None:
                continue
            early.append(received)
            answer = _find_ack(received.datagrams, ack + 1)
            if answer == 0:
                return early
            if answer in (errno.EPERM, errno.EACCES):
                raise DeniedError(_DENIED)
            if answer is not None:
                raise KernelError(f"the kernel refuses process events: {os.strerror(answer)}")
        raise KernelError(_why_not("the kernel did not acknowledge the subscription to process events"))

    def close(self) -> None:
        """Close the socket; the kernel forgets the subscription with it."""
        self._socket.close()


_DENIED = "no permission to subscribe to process events: run as root, or with CAP_NET_ADMIN in the initial namespaces"


_OTHER_NETWORK = (
    "the kernel sends process events to the initial network namespace only: run it on the host, not in a "
    "container, and without PrivateNetwork="
)


def open_socket() -> socket.socket:
    """A socket of the connector's group, that nobody but the kernel can send to by unicast.

    Raises KernelError or DeniedError.
    """
    try:
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC,
            _NETLINK_CONNECTOR,
        )
    except OSError as error:
        raise KernelError(_why_not(f"cannot open a netlink connector socket: {error.strerror}")) from error
    try:
        sock.bind((0, 1 << (wire.CN_IDX_PROC - 1)))
        sock.connect((0, 0))
        sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
    except PermissionError as error:
        sock.close()
        raise DeniedError(_DENIED) from error
    except OSError as error:
        sock.close()
        raise KernelError(_why_not(f"cannot bind to process events: {error.strerror}")) from error
    return sock


def _grow_buffer(sock: socket.socket, wanted_bytes: int) -> int:
    """Set the receive buffer, by force or else as far as allowed; gives what it is now.

    The kernel doubles what it is given, for its own bookkeeping: half is asked for, so that the outcome
    is the size that was wanted.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes // 2)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes // 2)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def _find_ack(datagrams: bytes, ack: int) -> int | None:
    """The errno (0 for success) of the acknowledgement with this number, if it is there."""
    events, _malformed = wire.decode(datagrams)
    for raw in events:
        event = wire.Event(*raw)
        if event.what == wire.NONE and event.ack == ack:
            return event.a
    return None


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
