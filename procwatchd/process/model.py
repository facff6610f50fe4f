# SPDX-License-Identifier: MIT
"""What is known of a process.

A `Process` is a life's state between two changes: at exec, or where an id or the comm changes, the table puts a
changed copy in its place. So whoever holds one (a child its parent, a record its process) has it as it
was then, and nothing need be copied at fork.

Everything another process chose is bytes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from procwatchd.process.cgroup import Place
from procwatchd.process.tally import Tally, Usage
from procwatchd.process.users import Users

# How far ANCESTORS and `ancestor.` look, and how much of a chain of ended parents is kept.
ANCESTOR_LIMIT = 32


@dataclass(slots=True)
class Image:
    """What an exec made, as read from /proc; never changed once made, shared by those who inherit it.

    `argv` is as in /proc/PID/cmdline: each argument ended by NUL, the first `procfs.ARGV_BYTES` of it, with
    `argv_tail` the end of a longer one; `argv_bytes` is the true length. None is unknown. `identity` is what the
    reading was worth: same, reused, gone or unknown.
    """

    exe: bytes | None
    argv: bytes | None
    argv_bytes: int
    argv_tail: bytes
    identity: str
    # CMDLINE, kept by whoever first made it, and what says how: two that have this in common make the same.
    quoted: str | None = None
    quoted_as: int = 0


@dataclass(slots=True)
class Creds:
    """User and group ids, in the initial user namespace, None while unknown; and who knows the user's name."""

    uid: int | None
    euid: int | None
    gid: int | None
    egid: int | None
    users: Users

    @property
    def user(self) -> str | None:
        """The name of `uid`, where it is known already."""
        return None if self.uid is None else self.users.name(self.uid)


@dataclass(slots=True)
class Context:
    """Where a process runs, as last read; inherited at fork, never changed once made.

    The namespaces' inode numbers are None where they are the host's, `host_mounts` is True only where the
    mount namespace was read and is the host's.
    """

    cwd: bytes | None = None
    tty: str | None = None
    sid: int | None = None
    loginuid: int | None = None
    audit_session: int | None = None
    place: Place | None = None
    mount_namespace: int | None = None
    user_namespace: int | None = None
    host_mounts: bool = False


class Process:
    """One life of a PID, as it was from one change to the next.

    `start_ticks` is its start in ticks since boot, exact where `exact`, else from the clock of its FORK (the
    same but for one in some thousand); `life` tells lives apart that share PID and start. `parent` is the
    parent it was born to, as that was then. `inherited` is True while its image is its parent's.
    `execed_ns` and `read_ns` are when its image's EXEC was, and when that had been read; 0 where neither was.
    `threads` holds the ids of its living tasks, or is None while the leader is the only one ever seen; `tally` what
    those that ended come to. Both are the life's, so that all its states share them. `tags` stay with it.
    """

    __slots__ = (
        "comm",
        "context",
        "creds",
        "depth",
        "exact",
        "execed_ns",
        "forked_ns",
        "image",
        "inherited",
        "life",
        "parent",
        "pid",
        "ppid",
        "read_ns",
        "start_ticks",
        "tags",
        "tally",
        "threads",
    )

    def __init__(
        self,
        pid: int,
        start_ticks: int | None,
        parent: Process | None,
        ppid: int | None,
        comm: bytes | None,
        image: Image,
        context: Context,
        creds: Creds | None,
    ) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.exact = False
        self.life = 1
        self.forked_ns: int | None = None
        self.parent = parent
        self.ppid = ppid
        self.depth = 0
        self.comm = comm
        self.image = image
        self.inherited = False
        self.execed_ns = 0
        self.read_ns = 0
        self.context = context
        self.creds = creds
        self.threads: set[int] | None = None
        self.tally: Tally | None = None
        self.tags: tuple[str, ...] = ()

    def copy(self) -> Process:
        """The same state again, to be changed before anyone sees it."""
        other = Process(
            self.pid,
            self.start_ticks,
            self.parent,
            self.ppid,
            self.comm,
            self.image,
            self.context,
            self.creds,
        )
        other.exact = self.exact
        other.life = self.life
        other.forked_ns = self.forked_ns
        other.depth = self.depth
        other.inherited = self.inherited
        other.execed_ns = self.execed_ns
        other.read_ns = self.read_ns
        other.threads = self.threads
        other.tally = self.tally
        other.tags = self.tags
        return other

    def add_tags(self, tags: Iterable[str]) -> bool:
        """Give it these behind its own; whether any was new."""
        before = self.tags
        self.tags = tuple(dict.fromkeys((*before, *tags)))
        return self.tags != before

    @property
    def birth(self) -> tuple[int, int | None]:
        """What all states of one life have in common, and no two lives."""
        return (self.pid, self.start_ticks if self.forked_ns is None else self.forked_ns)

    @property
    def process_id(self) -> str | None:
        """`PID-STARTTIME`, with `.2`, `.3` where lives share both; None while the start is unknown."""
        if self.start_ticks is None:
            return None
        suffix = f".{self.life}" if self.life > 1 else ""
        return f"{self.pid}-{self.start_ticks}{suffix}"

    def ancestors(self) -> list[Process]:
        """Its parent, that one's parent, and so on, each as it was when it became one; at most 32."""
        found: list[Process] = []
        parent = self.parent
        while parent is not None and len(found) < ANCESTOR_LIMIT:
            found.append(parent)
            parent = parent.parent
        return found


UNKNOWN_IMAGE = Image(None, None, 0, b"", "unknown")
GONE_IMAGE = Image(None, None, 0, b"", "gone")
REUSED_IMAGE = Image(None, None, 0, b"", "reused")
UNKNOWN_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Killer:
    """Who sent the signal that ended a process, as it was then. `exe` is None where the table did not know.

    `host_mounts`: that path is one of the host's own mount namespace.
    """

    pid: int
    comm: bytes
    exe: bytes | None
    uid: int
    host_mounts: bool


@dataclass(slots=True)
class Record:
    """An event plus what is known of whom it is about: what rules look at and entries are made of.

    `event` is the field EVENT's word. `before` is the process as it was before a uid, gid or comm change.
    `wait_status` is as waitpid(2) gives it, `end_source` where it is from, `usage` what the process took. `found` is
    True where a resync found what has no event of its own. `lag_ns` is how long after the event /proc was read, where
    it was for it. `filename` is what execve was given. `is_environment_cut`: there was more of it than was looked at.
    """

    event: str
    process: Process
    monotonic_ns: int
    source: str
    identity: str
    tid: int | None = None
    lag_ns: int | None = None
    wait_status: int | None = None
    end_source: str | None = None
    usage: Usage | None = None
    found: bool = False
    before: Process | None = None
    tracer_pid: int | None = None
    tracer: Process | None = None
    filename: bytes | None = None
    killer: Killer | None = None
    is_oom_killed: bool = False
    sha256: str | None = None
    is_hash_late: bool = False
    environment: dict[str, bytes] | None = None
    is_environment_cut: bool = False
