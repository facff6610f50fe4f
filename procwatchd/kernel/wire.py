# SPDX-License-Identifier: MIT
"""The proc connector's wire format: bytes in, events out. Nothing here touches the system.

Facts (include/uapi/linux/cn_proc.h, connector.h, netlink.h):
- One datagram is one event, always 76 bytes, in the machine's byte order.
- What the kernel calls `pid` is a thread's id; the PID of user space is its `tgid`.
- `timestamp_ns` is CLOCK_MONOTONIC; it is not aligned to 8 within the datagram.
- `seq` counts per CPU, for the whole kernel, every event and every ACK of anybody.
- An ACK is an event of type NONE; it answers the request whose `ack` is one less.

So the datagrams of one receive are decoded by one `iter_unpack` into tuples, the fastest thing that
CPython has for it; the tuple's places are named by `Event` for whoever wants names.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NewType

Tid = NewType("Tid", int)
Tgid = NewType("Tgid", int)

EVENT_BYTES = 76
ACK_OFFSET = 28
WHAT_OFFSET = 36
TIMESTAMP_OFFSET = 44
# Of a task; and of what is forked.
TID_OFFSET, TGID_OFFSET = 52, 56
CHILD_TID_OFFSET, CHILD_TGID_OFFSET = 60, 64

# enum proc_cn_event
NONE = 0x0
FORK = 0x1
EXEC = 0x2
UID = 0x4
GID = 0x40
SID = 0x80
PTRACE = 0x100
COMM = 0x200
COREDUMP = 0x40000000
EXIT = 0x80000000

KNOWN = frozenset({NONE, FORK, EXEC, UID, GID, SID, PTRACE, COMM, COREDUMP, EXIT})

# enum proc_cn_mcast_op; what is none of them is refused, with an ACK of EINVAL.
NO_OPERATION = 0
LISTEN = 1
IGNORE = 2

CN_IDX_PROC = 1
CN_VAL_PROC = 1
NLMSG_DONE = 3

# struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; };
# struct cn_msg { u32 idx; u32 val; u32 seq; u32 ack; u16 len; u16 flags; u8 data[]; };
# struct proc_event { u32 what; u32 cpu; u64 timestamp_ns; u32 union[6]; };
#
# The three groups of constant bytes are taken as one number each, so that an odd datagram costs three
# comparisons to tell: len with type and flags; idx with val; the payload's len with its flags.
_EVENT = struct.Struct("=Q 8x Q II I IIQ 6I")
_HEAD = EVENT_BYTES | NLMSG_DONE << 32
_ID = CN_IDX_PROC | CN_VAL_PROC << 32
_PAYLOAD = 40
assert _EVENT.size == EVENT_BYTES

_REQUEST = struct.Struct("=IHHII IIIIHH I")


class Event(NamedTuple):
    """One datagram of the connector.

    The meaning of `a` … `f` (unsigned) depends on `what`:

    ========  ==========================================================================
    FORK      parent tid, parent tgid, child tid, child tgid
    EXEC      tid, tgid
    UID, GID  tid, tgid, real id, effective id
    SID       tid, tgid
    PTRACE    tid, tgid, tracer tid, tracer tgid (both 0: detach)
    COMM      tid, tgid, and 16 bytes of comm in `c` … `f`: see `decode_comm`
    COREDUMP  tid, tgid, parent tid, parent tgid
    EXIT      tid, tgid, wait status, exit signal, parent tid, parent tgid
    NONE      positive errno, 0 for success
    ========  ==========================================================================
    """

    head: int
    id: int
    seq: int
    ack: int
    payload: int
    what: int
    cpu: int
    timestamp_ns: int
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int


RawEvent = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]


def decode(datagrams: bytes) -> tuple[list[RawEvent], int]:
    """Decode datagrams of 76 bytes laid end to end; also says how many were malformed.

    The tuples have the places of `Event`. A datagram with a wrong header is left out and counted, and
    so is a rest of fewer than 76 bytes. Types this module does not know are not malformed: they come back
    like the others, and whoever handles events counts them.
    """
    malformed = 0
    rest = len(datagrams) % EVENT_BYTES
    if rest:
        malformed = 1
        datagrams = datagrams[:-rest]
    events = [
        event
        for event in _EVENT.iter_unpack(datagrams)
        if event[0] == _HEAD and event[1] == _ID and event[4] == _PAYLOAD
    ]
    malformed += len(datagrams) // EVENT_BYTES - len(events)
    return events, malformed


def decode_comm(event: RawEvent) -> bytes:
    """The new comm of a COMM event, without its padding."""
    return struct.pack("=4I", *event[10:14]).split(b"\0", 1)[0]


def encode_event(
    what: int, *union: int, cpu: int = 0, timestamp_ns: int = 0, seq: int = 0, ack: int = 0
) -> bytes:
    """A datagram as the kernel would send it, for tests and for whoever plays the kernel."""
    words = (*union, *(0,) * (6 - len(union)))
    return _EVENT.pack(_HEAD, _ID, seq, ack, _PAYLOAD, what, cpu, timestamp_ns, *words)


def encode_request(operation: int, *, seq: int, ack: int) -> bytes:
    """A request to the connector; its ACK will carry `ack + 1`."""
    size = _REQUEST.size
    return _REQUEST.pack(size, NLMSG_DONE, 0, seq, 0, CN_IDX_PROC, CN_VAL_PROC, seq, ack, 4, 0, operation)
