# SPDX-License-Identifier: MIT
"""Run a program as a service manager does that hands descriptors over: `handed.py NAME=FD... -- PROGRAM...`."""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3

if __name__ == "__main__":
    end = sys.argv.index("--")
    handed = [argument.rpartition("=") for argument in sys.argv[1:end]]
    # First out of each other's way.
    safe = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, FIRST + 2 * len(handed)) for _name, _, fd in handed]
    for place, fd in enumerate(safe, FIRST):
        os.dup2(fd, place)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(handed))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _fd in handed)
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
