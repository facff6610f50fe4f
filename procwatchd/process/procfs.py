# SPDX-License-Identifier: MIT
"""Reading /proc/PID through one directory descriptor.

Facts:
- Every read relative to a descriptor of /proc/PID fails with ESRCH once that process has ended, and after its PID was
  given to another too: so what one `Reading` holds is all of one life [fs/proc/base.c, get_proc_task()].
- starttime (field 22 of stat) is in ticks since boot of CLOCK_BOOTTIME; it stays over exec.
- A zombie has stat, status and comm; its cmdline is empty, exe and cwd are gone. cmdline of a living program is
  never empty since Linux 5.18 (an empty argv gets one empty argument), but for the moment within an exec when exe is
  the next image's already; of a kernel thread always.
- exe, cwd, ns and environ of others need CAP_SYS_PTRACE; the rest needs nothing.
- A tracer can hold a process amid an exec (PTRACE_EVENT_EXEC) when all this is the next image's already, and the EXEC
  is still to be sent [fs/exec.c, exec_binprm()]. /proc/PID/syscall says what call it is in; it needs CAP_SYS_PTRACE.
- comm stands in stat between parentheses and may hold any byte, `) R 1 (` too: it ends at the *last* one.

exe is read before and after cmdline: only where it is the same, and cmdline is not empty, both are of one image. stat
comes last: a tracer that lets go before that lets the next EXEC be sent before that.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from procwatchd.process.cgroup import Place, Places, parse_cgroup_file
from procwatchd.process.executables import Checksum, Hasher
from procwatchd.process.model import Context

# Limits on what one process can make us read; each is far above what the kernel gives for honest ones.
ARGV_BYTES = 128 << 10
ARGV_TAIL_BYTES = 4 << 10
# An execve takes 6 MiB at most; but prctl(PR_SET_MM) can make cmdline as long as all memory.
ARGV_READ_BYTES = 8 << 20
SMALL_FILE_BYTES = 16 << 10
ENVIRON_BYTES = 256 << 10

_UNSET_ID = 0xFFFFFFFF
# execve and execveat, on one machine or another: what is taken for them by mistake is looked at again.
_EXEC_CALLS = frozenset(b"59 322 11 358 520 545 221 281 387 362 354 1073742344 1073742369".split())
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC


class Stat(NamedTuple):
    """What /proc/PID/stat says, as far as it is used. `start_ticks` since boot; `tty` is a device number."""

    comm: bytes
    state: bytes
    ppid: int
    sid: int
    tty: int
    threads: int
    start_ticks: int

    @property
    def has_ended(self) -> bool:
        """Whether it is a process that has ended and waits for its parent."""
        return self.state == b"Z" and self.threads <= 1


def parse_stat(data: bytes) -> Stat | None:
    """Parse the content of /proc/PID/stat; None where it is not that."""
    opening = data.find(b"(")
    closing = data.rfind(b") ")
    if opening < 0 or closing < opening:
        return None
    rest = data[closing + 2 :].split(b" ", 20)
    try:
        return Stat(
            data[opening + 1 : closing],
            rest[0],
            int(rest[1]),
            int(rest[3]),
            int(rest[4]),
            int(rest[17]),
            int(rest[19]),
        )
    except (IndexError, ValueError):
        return None


class Ids(NamedTuple):
    """Real and effective ids from /proc/PID/status."""

    uid: int
    euid: int
    gid: int
    egid: int


def parse_ids(status: bytes) -> Ids | None:
    """The Uid: and Gid: lines of /proc/PID/status; None where they are missing.

    A comm cannot forge a line there: the kernel escapes newlines in Name:.
    """
    try:
        uid = status.split(b"\nUid:\t", 1)[1].split(b"\t", 2)
        gid = status.split(b"\nGid:\t", 1)[1].split(b"\t", 2)
        return Ids(int(uid[0]), int(uid[1]), int(gid[0]), int(gid[1]))
    except (IndexError, ValueError):
        return None


def select_environment(environ: bytes, names: tuple[bytes, ...]) -> dict[str, bytes]:
    """The values of the named variables in the content of /proc/PID/environ."""
    found: dict[str, bytes] = {}
    for assignment in environ.split(b"\0"):
        name, equals, value = assignment.partition(b"=")
        if equals and name in names:
            found.setdefault(name.decode("ascii"), value)
    return found


class NotRead(Enum):
    """Why there is no reading, or none that can be used."""

    GONE = "gone"  # the process had ended
    EXECED_AGAIN = "execed again"  # its next image was there already
    HELD = "held"  # by its tracer, amid an exec: whose image it was nobody can tell
    TOO_LATE = "too late"  # so far behind that nobody could say whose it would have been
    REFUSED = "refused"  # by the kernel, or for want of a descriptor


@dataclass(slots=True)
class Reading:
    """What one process looked like between `begun_ns` and `done_ns` (CLOCK_MONOTONIC). What could not be read is None.

    `argv`, `argv_bytes`, `argv_tail` are as in `Image`; `argv` None says that the process had ended, is amid its next
    exec, or is a kernel thread. `checksum` is there where it is wanted. `ids` are the first task's. `is_held` says that
    a tracer held it amid an exec: maybe the next one. `is_recorded`: it is what the exec made, as the kernel recorded
    it, and `filename` what execve was given. `is_environment_cut`: there was more of it than is read.
    """

    stat: Stat
    exe: bytes | None
    argv: bytes | None
    argv_bytes: int
    argv_tail: bytes
    context: Context
    begun_ns: int
    done_ns: int
    ids: Ids | None = None
    environment: dict[str, bytes] | None = None
    is_environment_cut: bool = False
    checksum: Checksum | None = None
    is_held: bool = False
    is_recorded: bool = False
    filename: bytes | None = None

    @property
    def is_whole(self) -> bool:
        """Whether path and arguments are there, and not cut."""
        return self.exe is not None and self.argv is not None and self.argv_bytes == len(self.argv)


@dataclass(frozen=True, slots=True)
class Wants:
    """What is worth reading beside stat, cmdline and exe: whatever nobody asks for is not read."""

    cwd: bool = True
    tty: bool = True
    loginuid: bool = True
    audit_session: bool = True
    cgroup: bool = True
    namespaces: bool = True
    checksum: bool = False
    environment: tuple[bytes, ...] = ()


class Reader:
    """Reads processes below `proc`. One thread uses it."""

    def __init__(self, wants: Wants, *, proc: str = "/proc", sys: str = "/sys") -> None:
        self.wants = wants
        self.truncated_argv = 0
        self._proc = proc
        self.hasher = Hasher()
        self.places = Places()
        # Children mostly run where their parents do: what was parsed last is what comes next.
        self._last_cgroup = b""
        self._last_place: Place | None = None
        self.ttys = Ttys(sys)
        # PID 1 may not be ours to look at; kthreadd lives in the initial namespaces too.
        self.host_mounts = _inode(_link(f"{proc}/1/ns/mnt") or _link(f"{proc}/2/ns/mnt"))
        self.host_users = _inode(_link(f"{proc}/1/ns/user") or _link(f"{proc}/2/ns/user"))

    def read(self, pid: int) -> Reading | NotRead:
        """Read one process for its EXEC."""
        return self._read_at(pid, self.wants)

    def look(self, pid: int) -> Reading | NotRead:
        """Read one process beside any EXEC: without its environment and checksum."""
        return self._read_at(pid, dataclasses.replace(self.wants, checksum=False, environment=()))

    def _read_at(self, pid: int, wants: Wants) -> Reading | NotRead:
        try:
            directory = os.open(f"{self._proc}/{pid}", _DIRECTORY)
        except (FileNotFoundError, ProcessLookupError):
            return NotRead.GONE
        except OSError:
            return NotRead.REFUSED
        try:
            return self._read(directory, wants)
        except (FileNotFoundError, ProcessLookupError):
            return NotRead.GONE
        except OSError:
            return NotRead.REFUSED
        finally:
            os.close(directory)

    def forks(self) -> int | None:
        """How many processes and threads the kernel has forked since boot; None where that cannot be read."""
        try:
            with open(f"{self._proc}/stat", "rb") as file:
                return next(int(line.split()[1]) for line in file if line.startswith(b"processes "))
        except (OSError, StopIteration, ValueError):
            return None

    def is_held(self, pid: int) -> bool:
        """Whether a tracer holds a process amid an exec, now."""
        try:
            directory = os.open(f"{self._proc}/{pid}", _DIRECTORY)
        except OSError:
            return False
        try:
            stat = parse_stat(_content(directory, "stat") or b"")
            return stat is not None and _is_held(directory, stat)
        finally:
            os.close(directory)

    def pids(self) -> list[int]:
        """The ids of all processes there are now."""
        return [int(name) for name in os.listdir(self._proc) if name.isdigit()]

    def living_tids(self, pid: int, reading: Reading) -> set[int]:
        """The ids of a process's tasks, without a leader that ended before the others; empty where all have."""
        try:
            tids = {int(name) for name in os.listdir(f"{self._proc}/{pid}/task")}
        except OSError:
            return set()
        if reading.stat.state == b"Z":
            tids.discard(pid)  # its end was told already
        return tids

    def stat(self, pid: int) -> Stat | None:
        """What /proc/PID/stat says now; None where there is no such process."""
        try:
            directory = os.open(f"{self._proc}/{pid}", _DIRECTORY)
        except OSError:
            return None
        try:
            return parse_stat(_content(directory, "stat") or b"")
        finally:
            os.close(directory)

    def _read(self, directory: int, wants: Wants) -> Reading | NotRead:
        # Not before the directory was open: whose it is was decided by then at the latest.
        begun_ns = time.monotonic_ns()
        exe = _link_at(directory, b"exe")
        argv, argv_bytes, argv_tail = self._read_argv(directory)
        if not argv or _link_at(directory, b"exe") != exe:
            argv = None
        fd = os.open("stat", _FILE, dir_fd=directory)
        try:
            stat = parse_stat(os.read(fd, SMALL_FILE_BYTES))
        finally:
            os.close(fd)
        ids = parse_ids(_content(directory, "status") or b"")
        environ = _content(directory, "environ", ENVIRON_BYTES) if wants.environment else None
        checksum = self.hasher.ask(directory) if wants.checksum and exe is not None else None
        done_ns = time.monotonic_ns()
        if stat is None:
            return NotRead.GONE
        reading = Reading(
            stat,
            exe,
            argv,
            argv_bytes,
            argv_tail,
            self._read_context(directory, stat, wants),
            begun_ns,
            done_ns,
            ids,
            checksum=checksum,
        )
        reading.is_held = _is_held(directory, stat)
        if environ is not None:
            # Of the last one it may be the begin alone.
            reading.is_environment_cut = len(environ) == ENVIRON_BYTES
            whole = environ[: environ.rfind(b"\0") + 1] if reading.is_environment_cut else environ
            reading.environment = select_environment(whole, wants.environment)
        return reading

    def _read_context(self, directory: int, stat: Stat, wants: Wants) -> Context:
        context = Context(sid=stat.sid)
        if wants.tty and stat.tty:
            context.tty = self.ttys.name(stat.tty)
        if wants.cwd:
            context.cwd = _link_at(directory, b"cwd")
        if wants.loginuid:
            context.loginuid = _number_at(directory, "loginuid")
        if wants.audit_session:
            context.audit_session = _number_at(directory, "sessionid")
        if wants.cgroup:
            context.place = self._read_place(directory)
        if wants.namespaces:
            mounts, users = _inode(_link_at(directory, b"ns/mnt")), _inode(_link_at(directory, b"ns/user"))
            self.take_namespaces(context, mounts, users)
        return context

    def take_namespaces(self, context: Context, mounts: int | None, users: int | None) -> None:
        """Have a context say in which namespaces it is, by their inodes' numbers."""
        context.host_mounts = mounts is not None and mounts == self.host_mounts
        context.mount_namespace = mounts if mounts != self.host_mounts else None
        context.user_namespace = users if users != self.host_users else None

    def _read_place(self, directory: int) -> Place | None:
        content = _content(directory, "cgroup") or b""
        if content != self._last_cgroup:
            path = parse_cgroup_file(content)
            self._last_place = None if path is None else self.places.get(path)
            self._last_cgroup = content
        return self._last_place

    def _read_argv(self, directory: int) -> tuple[bytes | None, int, bytes]:
        """The arguments, their true length in bytes, and the end of those longer than `ARGV_BYTES`."""
        fd = _open_at(directory, "cmdline")
        if fd is None:
            return None, 0, b""
        try:
            # One read gives all there is up to the size asked for, and nearly all are short.
            argv = os.read(fd, 4096)
            if len(argv) < 4096:
                return argv, len(argv), b""
            return self._read_long_argv(fd, argv)
        except OSError:
            return None, 0, b""
        finally:
            os.close(fd)

    def _read_long_argv(self, fd: int, head: bytes) -> tuple[bytes, int, bytes]:
        parts, size, last = [head], len(head), b""
        while size < ARGV_READ_BYTES and (piece := os.read(fd, ARGV_BYTES)):
            if size < ARGV_BYTES:
                parts.append(piece)
            size += len(piece)
            last = (last + piece)[-ARGV_TAIL_BYTES:]
        argv = b"".join(parts)
        if size <= ARGV_BYTES:
            return argv, size, b""
        self.truncated_argv += 1
        return argv[:ARGV_BYTES], size, last


class Ttys:
    """Names of terminals by device number, as `ps` has them; those that are not pts come from sysfs, once."""

    def __init__(self, sys: str) -> None:
        self._sys = sys
        self._names: dict[int, str | None] = {}

    def name(self, device: int) -> str | None:
        """The name of a terminal by its number, as in /proc/PID/stat; None where it has none."""
        major, minor = device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00
        if 136 <= major <= 143:  # UNIX98_PTY_SLAVE_MAJOR and the seven after it
            return f"pts/{(major - 136 << 8) + minor}"
        if device not in self._names:
            link = _link(f"{self._sys}/dev/char/{major}:{minor}")
            self._names[device] = None if link is None else os.fsdecode(os.path.basename(link))
        return self._names[device]


def _content(directory: int, name: str, limit: int = SMALL_FILE_BYTES) -> bytes | None:
    """A small file's content, at most `limit` bytes; None where it cannot be read."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:
        return None
    try:
        return os.read(fd, limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def _is_held(directory: int, stat: Stat) -> bool:
    """Whether a tracer has stopped a process in an exec, or as it leaves it; also where the call may not be known."""
    if stat.state != b"t":
        return False
    call = _content(directory, "syscall")
    return call is None or call.split(b" ", 1)[0] in _EXEC_CALLS


def _open_at(directory: int, name: str) -> int | None:
    try:
        return os.open(name, _FILE, dir_fd=directory)
    except OSError:
        return None


def _link_at(directory: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _link(path: str) -> bytes | None:
    try:
        return os.readlink(path.encode())
    except OSError:
        return None


def _number_at(directory: int, name: str) -> int | None:
    """An id of the audit subsystem; None where it is not set or not there."""
    content = _content(directory, name)
    if not content or not content.isdigit():
        return None
    number = int(content)
    return None if number == _UNSET_ID else number


def _inode(link: bytes | None) -> int | None:
    """The number in `mnt:[4026531832]`."""
    return None if link is None else int(link[link.index(b"[") + 1 : -1])


def may_read_environment(proc: str = "/proc") -> bool:
    """Whether that of others' processes can be read."""
    try:
        os.close(os.open(f"{proc}/1/environ", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
