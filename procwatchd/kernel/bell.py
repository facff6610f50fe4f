# SPDX-License-Identifier: MIT
"""The bell: a second socket that hears EXECs alone, and at once.

Facts:
- Of the sockets of a group the one that was bound last is served first [net/netlink/af_netlink.c,
  netlink_update_subscriptions()]. So a bell that is made after the connector has each EXEC before that has it.
- A subscription is the kernel's for the whole group: a second socket gets events without one of its own
  [drivers/connector/cn_proc.c, cn_filter()].

An EXEC is the one event whose process must be read at once. Whoever does that waits for the bell; everything, EXECs
too, comes in order and is counted through the connector's own socket, in its own time. A bell that was not heard
costs arguments, not events.
"""

from __future__ import annotations

from procwatchd.kernel import filter as kernel_filter
from procwatchd.kernel import wire
from procwatchd.kernel.connector import open_socket
from procwatchd.kernel.wire import RawEvent


class Bell:
    """Hears EXECs. One thread uses it. Raises KernelError or DeniedError where it cannot be had."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._socket.setblocking(False)
        kernel_filter.attach(self._socket, kernel_filter.type_program(wire.EXEC))

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
