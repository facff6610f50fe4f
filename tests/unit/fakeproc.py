# SPDX-License-Identifier: MIT
"""A /proc of the tests' own, as plain files and links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HOST_MOUNTS, HOST_USERS = 4026531832, 4026531837


class FakeProc:
    """Processes below a directory; what a test does not say is an honest process's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add(1, comm=b"systemd", exe="/usr/lib/systemd/systemd", cmdline=b"/sbin/init\0", ppid=0, start=1)

    def add(
        self,
        pid: int,
        *,
        comm: bytes = b"prog",
        exe: str | bytes | None = "/usr/bin/prog",
        cmdline: bytes = b"prog\0",
        ppid: int = 1,
        start: int = 100,
        state: bytes = b"S",
        threads: int = 1,
        uid: int = 0,
        cgroup: bytes = b"0::/system.slice/prog.service\n",
        loginuid: int = 0xFFFFFFFF,
        mounts: int = HOST_MOUNTS,
        users: int = HOST_USERS,
        tty: int = 0,
    ) -> None:
        directory = self.root / str(pid)
        (directory / "ns").mkdir(parents=True)
        after = b"%b %d %d %d %d -1 4194560 0 0 0 0 0 0 0 0 20 0 %d 0 %d 1 1 1" % (
            state,
            ppid,
            pid,
            pid,
            tty,
            threads,
            start,
        )
        (directory / "stat").write_bytes(b"%d (%b) %b" % (pid, comm, after))
        (directory / "cmdline").write_bytes(cmdline)
        (directory / "status").write_bytes(
            b"Name:\tx\nUid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n" % ((uid,) * 8)
        )
        (directory / "cgroup").write_bytes(cgroup)
        (directory / "loginuid").write_bytes(b"%d" % loginuid)
        (directory / "sessionid").write_bytes(b"%d" % loginuid)
        (directory / "environ").write_bytes(b"PATH=/bin\0SECRET=x\0LANG=C\0")
        for tid in range(pid, pid + threads):
            (directory / "task" / str(tid)).mkdir(parents=True)
        if exe is not None:
            os.symlink(exe, os.fsencode(directory / "exe"))
            os.symlink("/srv", directory / "cwd")
        os.symlink(f"mnt:[{mounts}]", directory / "ns" / "mnt")
        os.symlink(f"user:[{users}]", directory / "ns" / "user")

    def remove(self, pid: int) -> None:
        """It has ended, and was reaped."""
        shutil.rmtree(self.root / str(pid))

    def refuse(self, pid: int) -> None:
        """It is there, but cannot be opened."""
        self.remove(pid)
        (self.root / str(pid)).write_bytes(b"")  # no directory: an error that does not say that it has ended

    def refuse_files(self, pid: int) -> None:
        """It is there and can be opened, but its files cannot: as where there is but one descriptor left."""
        for name in ("stat", "status", "cmdline"):
            (self.root / str(pid) / name).unlink()
            (self.root / str(pid) / name).mkdir()
