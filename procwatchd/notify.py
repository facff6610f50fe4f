# SPDX-License-Identifier: MIT
"""Messages to the service manager.

Facts:
- $NOTIFY_SOCKET is the path of a datagram socket; with an @ before it an abstract one [sd_notify(3)].
- sd_notify(3) waits without limit for room in that socket: where PID 1 has frozen, for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

# A busy service manager gets that much to make room.
NOTIFY_SECONDS = 1.0


def notify(message: str, fds: Sequence[int] = ()) -> None:
    """Tell the service manager, if there is one; where it is gone or hangs, nobody is told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # Whoever asked to be told may be gone: that is no reason to end.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(NOTIFY_SECONDS)
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        socket.send_fds(manager, [message.encode()], list(fds))
