# SPDX-License-Identifier: MIT
"""The accounting's wire format: messages in, ends of tasks out. Nothing here touches the system.

Facts (include/uapi/linux/taskstats.h, acct.h, netlink.h, genetlink.h; kernel/taskstats.c):
- struct taskstats grows at its end, but for version 15 (between Linux 6.14 and 6.16), which put fields in the middle.
  From version 12 (5.19) on it has ac_tgid, ac_tgetime, and AGROUP in ac_flag.
- AGGR_TGID comes with the last task of a process that had threads: sums of CPU times, context switches and delays;
  the rest is 0, the version too [fill_tgid_exit()].
- cpu_run_virtual_total is as of the last tick or switch: a task that ends before its first has 0 there.
- ACORE says that a dump was begun, even where none is allowed; whether one was written is a bit of the status.
- AGGR_PID comes first; in it PID, then STATS, as TGID and STATS in AGGR_TGID. Where 64-bit values must be aligned, an
  attribute TASKSTATS_TYPE_NULL precedes STATS [mk_reply()].

The PID attribute must say what ac_pid says: so a struct that is not as thought shows.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# `flags`, ac_flag
FORKED_ONLY = 0x01  # AFORK: the process never called exec
CORE_DUMPED = 0x08  # ACORE: a dump was begun; os.WCOREDUMP(status) says whether there is one
SIGNALED = 0x10  # AXSIG
LAST = 0x20  # AGROUP: the last task of its process

# Requests to the family, and their attributes
CMD_GET = 1
CMD_ATTR_PID = 1
CMD_ATTR_REGISTER_CPUMASK = 3
CMD_ATTR_DEREGISTER_CPUMASK = 4

CMD_NEW = 2
_TYPE_PID = 1
_TYPE_TGID = 2
TYPE_STATS = 3
TYPE_AGGR_PID = 4
_TYPE_AGGR_TGID = 5
TYPE_NULL = 6

OLDEST_VERSION = 12
ODD_VERSION = 15

_NLMSG_MIN_TYPE = 0x10
_NLM_F_REQUEST = 0x1
_NLA_TYPE_MASK = 0x3FFF

# struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; };
# struct genlmsghdr { u8 cmd; u8 version; u16 reserved; };
# struct nlattr { u16 len; u16 type; };
_HEAD = struct.Struct("=IHHII BBH")
_LENGTH_TYPE_COMMAND = struct.Struct("=I H 10x B 3x")
_ATTRIBUTE = struct.Struct("=HH")
# An aggregate's header, and the id that is its first attribute.
_AGGREGATE = struct.Struct("=HH HHI")
_ID_BYTES = _ATTRIBUTE.size + 4
ATTRIBUTE_BYTES = _ATTRIBUTE.size
_WORD = struct.Struct("=I")
HEAD_BYTES = _HEAD.size
_HEADER_BYTES = 16
assert _LENGTH_TYPE_COMMAND.size == HEAD_BYTES

# struct taskstats {
#   0 u16 version;  4 u32 ac_exitcode;  8 u8 ac_flag;  72 u64 cpu_run_virtual_total;  80 char ac_comm[32];
#   120 u32 ac_uid, ac_gid, ac_pid, ac_ppid;  144 u64 ac_etime, ac_utime, ac_stime;  200 u64 hiwater_rss;
#   248 u64 read_bytes, write_bytes;  368 u32 ac_tgid;  376 u64 ac_tgetime;  … };
_STATS = struct.Struct("=H 2x I B 63x Q 32s 8x IIII 8x QQQ 32x Q 40x QQ 104x I 4x Q")
# Of the same struct, what is in the sums of a process: cpu_run_virtual_total, ac_utime, ac_stime.
_SUMS = struct.Struct("=72x Q 72x QQ")
assert (_STATS.size, _SUMS.size) == (384, 168)

# For whoever looks at a message where it is: the type and the command in its head, the struct where nothing is padded
# (its attribute's header before it), and what of that is where; all that is looked at is within KNOWN_BYTES.
TYPE_AT, COMMAND_AT = 4, 16
FIRST_STATS_AT = HEAD_BYTES + _AGGREGATE.size + _ATTRIBUTE.size
VERSION_AT, STATUS_AT, FLAGS_AT, TID_AT, TGID_AT = 0, 4, 8, 128, 368
KNOWN_BYTES = _STATS.size


class TaskEnd(NamedTuple):
    """What the kernel says of a task that ended. Ids are those of the initial namespaces, uid and gid the real ones.

    `status` is the task's own wait status. The process's is that of its LAST task, unless that one ended by itself
    while another ended the process: then it is what the other's record says.

    Both elapsed times are since the fork, whatever was exec'ed since. `cpu_ns` lacks up to a tick, and is 0 for most
    tasks shorter than that; `memory_peak_bytes` is the peak since the last exec, 0 where unknown; these and the bytes
    read from and written to disks are the task's alone, but for the memory, which it shares. `group_cpu_ns` is the sum
    over all tasks of the process, with the LAST of one that had threads; None elsewhere.
    """

    tid: int
    tgid: int
    ppid: int
    uid: int
    gid: int
    comm: bytes
    status: int
    flags: int
    elapsed_usec: int
    process_elapsed_usec: int
    cpu_ns: int
    memory_peak_bytes: int
    read_bytes: int
    write_bytes: int
    group_cpu_ns: int | None


def decode(messages: bytes) -> tuple[list[TaskEnd], int]:
    """Decode netlink messages laid end to end, each at a multiple of 4; also says how many were malformed.

    Malformed is what is no record of a task's end, or of a version whose layout is unknown; a message whose length is
    impossible is one with all that follows, since nobody knows where the next begins.
    """
    ends: list[TaskEnd] = []
    malformed = 0
    at, total = 0, len(messages)
    while total - at >= HEAD_BYTES:
        length, kind, command = _LENGTH_TYPE_COMMAND.unpack_from(messages, at)
        if length < _HEADER_BYTES or length > total - at:
            break
        if kind >= _NLMSG_MIN_TYPE and command == CMD_NEW:
            end = _decode(messages, at + HEAD_BYTES, at + length)
        else:
            end = None
        if end is None:
            malformed += 1
        else:
            ends.append(end)
        at += (length + 3) & ~3
    return ends, malformed + (at < total)


def _decode(data: bytes, start: int, end: int) -> TaskEnd | None:
    """The record that these attributes hold; None where it is none, or of a version that we do not know."""
    if end - start < _AGGREGATE.size:
        return None
    task_bytes, kind, pid_bytes, pid_kind, pid = _AGGREGATE.unpack_from(data, start)
    task_end = start + task_bytes
    if kind != TYPE_AGGR_PID or pid_kind != _TYPE_PID or pid_bytes != _ID_BYTES or task_end > end:
        return None
    stats_at, stats_end = find_attribute(data, start + _AGGREGATE.size, task_end, TYPE_STATS)
    if stats_end - stats_at < _STATS.size:
        return None
    (
        version,
        status,
        flags,
        cpu_ns,
        comm,
        uid,
        gid,
        tid,
        ppid,
        elapsed_usec,
        user_usec,
        system_usec,
        peak_kib,
        read_bytes,
        write_bytes,
        tgid,
        process_elapsed_usec,
    ) = _STATS.unpack_from(data, stats_at)
    if version < OLDEST_VERSION or version == ODD_VERSION or pid != tid:
        return None
    group_cpu_ns = None
    group_at, group_end = find_attribute(data, task_end, end, _TYPE_AGGR_TGID) if task_end < end else (0, 0)
    if group_at:
        sums_at, sums_end = find_attribute(data, group_at, group_end, TYPE_STATS)
        if sums_end - sums_at < _SUMS.size:
            return None
        group_cpu_ns, group_user_usec, group_system_usec = _SUMS.unpack_from(data, sums_at)
        group_cpu_ns = group_cpu_ns or (group_user_usec + group_system_usec) * 1000
    return TaskEnd(
        tid,
        tgid,
        ppid,
        uid,
        gid,
        comm.split(b"\0", 1)[0],
        status,
        flags,
        elapsed_usec,
        process_elapsed_usec,
        cpu_ns or (user_usec + system_usec) * 1000,
        peak_kib * 1024,
        read_bytes,
        write_bytes,
        group_cpu_ns,
    )


def find_attribute(data: bytes, at: int, end: int, wanted: int) -> tuple[int, int]:
    """Where the payload of the first attribute of this type begins and ends; (0, 0) where there is none.

    `at` and `end` are of where the attributes are, `at` a multiple of 4.
    """
    while end - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or length > end - at:
            break
        if kind & _NLA_TYPE_MASK == wanted:
            return at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3
    return 0, 0


def encode(end: TaskEnd, *, version: int = 16, stats_bytes: int = 560, padded: bool = False) -> bytes:
    """A message as Linux 6.16 and later would send it, for tests and for whoever plays the kernel.

    `stats_bytes` is the size of struct taskstats; `padded` puts TASKSTATS_TYPE_NULL before it.
    """
    stats = _STATS.pack(
        version,
        end.status,
        end.flags,
        end.cpu_ns,
        end.comm,
        end.uid,
        end.gid,
        end.tid,
        end.ppid,
        end.elapsed_usec,
        end.cpu_ns // 1000,
        0,
        end.memory_peak_bytes // 1024,
        end.read_bytes,
        end.write_bytes,
        end.tgid,
        end.process_elapsed_usec,
    )
    aggregates = [(TYPE_AGGR_PID, _TYPE_PID, end.tid, stats)]
    if end.group_cpu_ns is not None:
        sums = _SUMS.pack(end.group_cpu_ns, end.group_cpu_ns // 1000, 0)
        aggregates.append((_TYPE_AGGR_TGID, _TYPE_TGID, end.tgid, sums))
    padding = _encode_attribute(TYPE_NULL, b"") if padded else b""
    payload = b""
    for kind, id_kind, number, piece in aggregates:
        whole = _encode_attribute(TYPE_STATS, piece.ljust(stats_bytes, b"\0")[:stats_bytes])
        payload += _encode_attribute(kind, _encode_attribute(id_kind, _WORD.pack(number)) + padding + whole)
    return _encode_message(_NLMSG_MIN_TYPE, CMD_NEW, payload)


def encode_request(family: int, command: int, kind: int, payload: bytes, *, flags: int = 0) -> bytes:
    """A request to a family of generic netlink, with one attribute."""
    return _encode_message(family, command, _encode_attribute(kind, payload), flags=_NLM_F_REQUEST | flags)


def _encode_message(family: int, command: int, attributes: bytes, *, flags: int = 0) -> bytes:
    return _HEAD.pack(HEAD_BYTES + len(attributes), family, flags, 0, 0, command, 1, 0) + attributes


def _encode_attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)
