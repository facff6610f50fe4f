# SPDX-License-Identifier: MIT
"""The recorder's layout: bytes of its rings in, recordings out. Nothing here touches the system.

recorder.bpf.c has the same structures, and says where each value is from.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# `flags` of an ExecRecording
EXE_DELETED = 1
EXE_CUT = 2
CWD_DELETED = 4
CWD_CUT = 8
CGROUP_CUT = 16
ARGV_UNREAD = 32

# `kind` and `flags` of a SignalRecording
SIGNAL, OOM_VICTIM = 1, 2
BLOCKED, TO_GROUP, TRACED = 1, 2, 4

NO_AUDIT_ID = 0xFFFFFFFF

_TICK_NS = 10_000_000

# struct exec_record {
#   u64 ns, start_ns; u32 tgid, ppid, uid, euid, gid, egid, loginuid, audit_session, sid, tty, mount_namespace,
#   user_namespace, argv_bytes, flags; u16 filename, exe, cwd, cgroup, argv, tail; char comm[16]; u32 unused; };
_EXEC = struct.Struct("=QQ 14I 6H 16s 4x")
# struct signal_record {
#   u64 ns, start_ns, sender_start_ns; u32 kind, signal, tgid, tid, sender_tgid, sender_uid, flags;
#   char sender_comm[16]; u32 unused; };
_SIGNAL = struct.Struct("=QQQ 7I 16s 4x")
assert (_EXEC.size, _SIGNAL.size) == (104, 72)


class ExecRecording(NamedTuple):
    """What an exec made, at `ns` (CLOCK_MONOTONIC). `start_ticks` since boot, of its process. Ids are the initial ones.

    Paths and arguments are None where they could not be had whole, or at all; `argv` is the head of `argv_bytes`, each
    argument ended by NUL, and `argv_tail` the end where that is not all. `filename` is what execve was given.
    """

    ns: int
    start_ticks: int
    tgid: int
    ppid: int
    uid: int
    euid: int
    gid: int
    egid: int
    loginuid: int
    audit_session: int
    sid: int
    tty: int
    mount_namespace: int
    user_namespace: int
    argv_bytes: int
    comm: bytes
    filename: bytes | None
    exe: bytes | None
    cwd: bytes | None
    cgroup: bytes | None
    argv: bytes | None
    argv_tail: bytes


class SignalRecording(NamedTuple):
    """A signal that may end a process, when it was generated, at `ns` (CLOCK_MONOTONIC); or an OOM killer's choice.

    `tid` of `tgid` was to get it; of an OOM_VICTIM only `tid` is there. `sender_tgid` is 0 where the kernel sent it.
    Both starts are in ticks since boot.
    """

    kind: int
    ns: int
    signal: int
    tgid: int
    tid: int
    start_ticks: int
    sender_tgid: int
    sender_uid: int
    sender_start_ticks: int
    sender_comm: bytes
    flags: int


def decode_exec(data: bytes) -> ExecRecording | None:
    """One item of the ring of execs; None where it is none."""
    if len(data) < _EXEC.size:
        return None
    values = _EXEC.unpack_from(data)
    flags = values[15]
    filename_bytes, exe_bytes, cwd_bytes, cgroup_bytes, argv_bytes, tail_bytes, comm = values[16:]
    exe_at = _EXEC.size + filename_bytes
    cwd_at = exe_at + exe_bytes
    cgroup_at = cwd_at + cwd_bytes
    argv_at = cgroup_at + cgroup_bytes
    tail_at = argv_at + argv_bytes
    if len(data) != tail_at + tail_bytes:
        return None
    return ExecRecording._make(
        (
            values[0],
            values[1] // _TICK_NS,
            *values[2:15],
            comm.split(b"\0", 1)[0],
            data[_EXEC.size : exe_at - 1] if filename_bytes else None,
            None if flags & EXE_CUT else _path(data[exe_at:cwd_at], is_deleted=bool(flags & EXE_DELETED)),
            None if flags & CWD_CUT else _path(data[cwd_at:cgroup_at], is_deleted=bool(flags & CWD_DELETED)),
            None if flags & CGROUP_CUT else _path(data[cgroup_at:argv_at]),
            None if flags & ARGV_UNREAD else data[argv_at:tail_at],
            data[tail_at:],
        )
    )


def decode_signal(data: bytes) -> SignalRecording | None:
    """One item of the ring of signals; None where it is none."""
    if len(data) != _SIGNAL.size:
        return None
    ns, start_ns, sender_start_ns, kind, signal, tgid, tid, sender_tgid, sender_uid, flags, comm = (
        _SIGNAL.unpack(data)
    )
    return SignalRecording(
        kind,
        ns,
        signal,
        tgid,
        tid,
        start_ns // _TICK_NS,
        sender_tgid,
        sender_uid,
        sender_start_ns // _TICK_NS,
        comm.split(b"\0", 1)[0],
        flags,
    )


def _path(names: bytes, *, is_deleted: bool = False) -> bytes:
    """The path that names make, the last one first, each ended by NUL; with the kernel's mark where it is no more."""
    path = b"/" + b"/".join(names.split(b"\0")[-2::-1])
    return path + b" (deleted)" if is_deleted else path
