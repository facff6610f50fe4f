# SPDX-License-Identifier: MIT
"""The bell: a second socket that hears EXECs alone, and at once.

Facts:
- Classic BPF filters work on sockets of the connector. What they reject is no drop and wakes nobody. Offset 0 is the
  nlmsghdr, and words are loaded in network order [net/core/filter.c].
- Of the sockets of a group the one that was bound last is served first [net/netlink/af_netlink.c,
  netlink_update_subscriptions()]. So a bell that is made after the connector has each EXEC before that has it.
- A subscription is the kernel's for the whole group: a second socket gets events without one of its own
  [drivers/connector/cn_proc.c, cn_filter()].

An EXEC is the one event whose process must be read at once. Whoever does that waits for the bell; everything, EXECs
too, comes in order and is counted through the connector's own socket, in its own time. A bell that was not heard
costs arguments, not events.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from procwatchd.kernel import wire
from procwatchd.kernel.connector import open_socket
from procwatchd.kernel.wire import RawEvent

_SO_ATTACH_FILTER = 26

# struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; }; struct sock_fprog { u16 len; struct sock_filter *filter; };
_SOCK_FILTER = struct.Struct("=HBBI")
_SOCK_FPROG = struct.Struct("@HP")
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K


class Bell:
    """Hears EXECs. One thread uses it. Raises KernelError or DeniedError where it cannot be had."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._socket.setblocking(False)
        _let_through(self._socket, wire.EXEC)

    def fileno(self) -> int:
        """The descriptor, for poll."""
        return self._socket.fileno()

    def hear(self) -> RawEvent | None:
        """One EXEC, as the kernel sent it; None where there is none, or what came is not the kernel's."""
        try:
            datagram, address = self._socket.recvfrom(wire.EVENT_BYTES + 1)
        except BlockingIOError:
            return None
        events, _malformed = wire.decode(datagram)
        return events[0] if events and address[0] == 0 else None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _let_through(sock: socket.socket, what: int) -> None:
    """Have the kernel reject all events but those of one type."""
    program = b"".join(
        _SOCK_FILTER.pack(*instruction)
        for instruction in (
            (_LOAD_WORD, 0, 0, wire.WHAT_OFFSET),
            (_JUMP_EQUAL, 0, 1, socket.htonl(what)),
            (_RETURN, 0, 0, wire.EVENT_BYTES),
            (_RETURN, 0, 0, 0),
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _SOCK_FILTER.size
    argument = _SOCK_FPROG.pack(count, ctypes.addressof(instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
