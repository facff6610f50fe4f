# SPDX-License-Identifier: MIT
"""What the service manager keeps for us while we are restarted: descriptors, by name.

Facts:
- What is given by FDSTORE=1 is kept over a restart, a crash and a SIGKILL, but not over a stop, and comes back as
  sockets of a socket unit would, by LISTEN_FDS. Without FDPOLL=0 a socket that has overrun would be closed, as that is
  an error [sd_notify(3)].
- $FDSTORE says how many are kept, from systemd 254 on; our unit says it for those before.
- A message from a process that has ended is nobody's: BARRIER=1 waits until all before it were read.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import BinaryIO

from systemd import daemon as systemd_daemon

from procwatchd.notify import notify

BARRIER_SECONDS = 5.0


class Store:
    """The descriptors that were kept, until they are taken; and what is to be kept. The main thread uses it.

    `is_there` says whether the service manager keeps any.
    """

    def __init__(self) -> None:
        self.is_there = bool(os.environ.get("NOTIFY_SOCKET")) and os.environ.get("FDSTORE", "0") != "0"
        # Taken out of the environment in any case: no child of ours is to find it there.
        given = systemd_daemon.listen_fds_with_names()
        self._kept: dict[str, int] = {name: fd for fd, name in given.items()} if self.is_there else {}

    def has(self, *names: str) -> bool:
        """Whether all of these were kept."""
        return all(name in self._kept for name in names)

    def take(self, name: str) -> int | None:
        """What was kept under this name, for the caller to close; it is kept on until it is dropped."""
        return self._kept.pop(name, None)

    def take_all(self, prefix: str) -> dict[str, int]:
        """The same for all names that begin so, by what comes after that."""
        names = [name for name in self._kept if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._kept.pop(name) for name in names}

    def give_back(self, prefix: str, fds: dict[str, int]) -> None:
        """What `take_all` gave is of no use."""
        self._kept.update({prefix + name: fd for name, fd in fds.items()})

    def take_memory(self, name: str) -> bytes | None:
        """What was written for `keep_memory`, once: nobody else is to find it."""
        fd = self.take(name)
        if fd is None:
            return None
        self.drop(name)
        with open(fd, "rb") as file:
            file.seek(0)
            return file.read()

    def keep_memory(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Have kept from now on what this writes to the file that it is given."""
        fd = os.memfd_create(f"procwatchd-{name}", os.MFD_CLOEXEC)
        with open(fd, "wb") as file:
            write(file)
            file.flush()
            self.keep(name, fd)

    def keep(self, name: str, fd: int) -> None:
        """Have a descriptor kept from now on."""
        if self.is_there:
            notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (fd,))

    def drop(self, name: str) -> None:
        """Keep it no longer."""
        if self.is_there:
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def drop_rest(self) -> None:
        """The same for all that nobody took."""
        for name, fd in self._kept.items():
            os.close(fd)
            self.drop(name)
        self._kept.clear()

    def settle(self) -> None:
        """Return when the service manager has all of it, or does not answer."""
        if not self.is_there:
            return
        readable, writable = os.pipe()
        try:
            notify("BARRIER=1", (writable,))
        finally:
            os.close(writable)
        poller = select.poll()
        poller.register(readable, 0)  # its closing is told in any case
        poller.poll(BARRIER_SECONDS * 1000)
        os.close(readable)
