# SPDX-License-Identifier: MIT
"""What the sockets of the connector and of the accounting share: opening, room, receiving in bulk, drops.

Facts:
- Only the sender's address tells who sent: 0 is the kernel. A connected netlink socket refuses unicast from anybody but
  its peer, here the kernel.
- In the default mode the first overrun drops everything until the queue is empty; with NETLINK_NO_ENOBUFS only
  what does not fit [net/netlink/af_netlink.c, netlink_overrun()].
- SO_MEMINFO word 8 counts the socket's drops, exactly.
- recvmmsg(2) takes up to 1024 datagrams a call, and through ctypes leaves the interpreter to others meanwhile. It
  writes the lengths and flags of a message and the length of its address anew each time: nothing has to be put back
  [net/socket.c, ____sys_recvmsg()].
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")

# struct sockaddr_nl { u16 family; u16 pad; u32 pid; u32 groups; };
_ADDRESS = struct.Struct("=HHII")


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


HEADER_BYTES = ctypes.sizeof(_MMsgHdr)

_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Slots:
    """Room for `count` datagrams of a netlink socket, each cut to `slot_bytes`. One thread uses it.

    `receive` fills it from the first slot on, and so these views: `data`, the slots end to end; `lengths`, of each
    datagram; `flags`, MSG_TRUNC for one that was cut; `headers`, all that the kernel says but who sent it, HEADER_BYTES
    for each datagram. They show what is there until the next `receive`.
    """

    def __init__(self, fileno: int, count: int, slot_bytes: int, *, groups: int = 0) -> None:
        self._fileno = fileno
        self._count = count
        data = ctypes.create_string_buffer(count * slot_bytes)
        names = ctypes.create_string_buffer(count * _ADDRESS.size)
        vectors = (_IoVec * count)()
        headers = (_MMsgHdr * count)()
        for n, (message, vector) in enumerate(zip(headers, vectors, strict=True)):
            header = message.header
            vector.base = ctypes.addressof(data) + n * slot_bytes
            vector.len = slot_bytes
            header.name = ctypes.addressof(names) + n * _ADDRESS.size
            header.namelen = _ADDRESS.size
            # This keeps the vectors for as long as there are headers.
            header.iov = ctypes.pointer(vector)
            header.iovlen = 1
        self._address = ctypes.addressof(headers)
        self._names = memoryview(names).cast("B")
        self._from_kernel = _ADDRESS.pack(socket.AF_NETLINK, 0, 0, groups) * count
        self.data = memoryview(data).cast("B")
        self.headers = memoryview(headers).cast("B")
        words = self.headers.cast("I")
        self.lengths = words[_MMsgHdr.len.offset // 4 :: HEADER_BYTES // 4]
        self.flags = words[_MsgHdr.flags.offset // 4 :: HEADER_BYTES // 4]

    def receive(self) -> int:
        """Take what the socket has, without waiting; how many datagrams, 0 where it has nothing. Raises OSError."""
        count = int(_recvmmsg(self._fileno, self._address, self._count, socket.MSG_DONTWAIT, None))
        if count >= 0:
            return count
        error = ctypes.get_errno()
        if error in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
            return 0
        raise OSError(error, os.strerror(error))

    def are_from_kernel(self, count: int) -> bool:
        """Whether the first `count` datagrams all came from the kernel, to the `groups`: one comparison of memory."""
        names_bytes = count * _ADDRESS.size
        return bytes(self._names[:names_bytes]) == self._from_kernel[:names_bytes]

    def is_from_kernel(self, n: int) -> bool:
        """Whether the kernel sent the datagram in slot `n`."""
        _family, _pad, sender, _groups = _ADDRESS.unpack_from(self._names, n * _ADDRESS.size)
        return bool(sender == 0)


def open_socket(protocol: int, *, groups: int = 0) -> socket.socket:
    """A socket that nobody but the kernel can send to by unicast, and that loses only what does not fit.

    Raises OSError.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.bind((0, groups))
        sock.connect((0, 0))
        sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
    except OSError:
        sock.close()
        raise
    return sock


def grow_buffer(sock: socket.socket, wanted_bytes: int) -> int:
    """Set the receive buffer, by force or else as far as allowed; gives what it is now.

    The kernel doubles what it is given, for its own bookkeeping: half is asked for, so that the outcome
    is the size that was wanted.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes // 2)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes // 2)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def drops(sock: socket.socket) -> int:
    """How many datagrams the socket had no room for since it was opened (32 bits, as the kernel counts)."""
    return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[8])
