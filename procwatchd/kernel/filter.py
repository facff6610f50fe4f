# SPDX-License-Identifier: MIT
"""What the kernel shall not even queue: filters for the sockets of the connector and of the accounting.

Facts:
- A classic BPF program that SO_ATTACH_FILTER gives to a socket decides on each datagram before that is queued; a second
  one takes the place of the first at once, so that each datagram meets one of them [net/core/filter.c,
  sk_attach_prog()].
- What it rejects is no drop, wakes nobody, and has its number all the same; a rejection costs less than half of what
  queueing does.
- Offset 0 is the nlmsghdr. Words and half words are loaded in network order. A load beyond the end rejects
  [kernel/bpf/core.c, bpf_prog_run(); Documentation/networking/filter.rst].
- Jumps go forward only, by at most 255 instructions.

So what is looked at is compared to what it would be in network order, and whatever is not as it should be passes: to
count that is for those who decode it. This module knows no rules, only what somebody needs.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from procwatchd.errors import KernelError
from procwatchd.kernel import taskstats, wire

_SO_ATTACH_FILTER = 26

# struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; }; struct sock_fprog { u16 len; struct sock_filter *filter; };
_SOCK_FILTER = struct.Struct("=HBBI")
_SOCK_FPROG = struct.Struct("@HP")

# include/uapi/linux/bpf_common.h
_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_LENGTH = 0x80  # BPF_LD | BPF_W | BPF_LEN
_TO_X = 0x07  # BPF_MISC | BPF_TAX
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_EQUAL_X = 0x1D  # BPF_JMP | BPF_JEQ | BPF_X
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_HAS_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALL_BYTES = 0xFFFFFFFF

# A label, an instruction without a jump, or one that jumps to a label where it holds, and to another where not; "" is
# the next instruction.
_Line = str | tuple[int, int] | tuple[int, int, str, str]
_PASS, _REJECT = "pass", "reject"
_VERDICTS: list[_Line] = [_PASS, (_RETURN, _ALL_BYTES), _REJECT, (_RETURN, 0)]

# Where the low byte of a half word is.
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)


@dataclass(frozen=True, slots=True)
class Needs:
    """What is needed of all that the kernel tells; what is not named here is always.

    `threads`: the FORKs, EXITs and COMMs of single threads. `ptrace`, `coredump`: events of that type. `tasks`: the
    accounting's records of all tasks; else those of leaders, of last tasks, and of whose status is not 0.
    """

    threads: bool = True
    ptrace: bool = True
    coredump: bool = True
    tasks: bool = True

    @property
    def is_every_event(self) -> bool:
        """Whether no event is rejected."""
        return self.threads and self.ptrace and self.coredump


def events_program(needs: Needs) -> bytes:
    """For the connector: the events that are needed, and whatever is no event or of an unknown type."""
    rejected = [
        what
        for what, needed in (
            (wire.PTRACE, needs.ptrace),
            (wire.COREDUMP, needs.coredump),
        )
        if not needed
    ]
    lines: list[_Line] = [(_LENGTH, 0), (_EQUAL, wire.EVENT_BYTES, "", _PASS), (_WORD, wire.WHAT_OFFSET)]
    if not needs.threads:
        lines += [(_EQUAL, socket.htonl(wire.FORK), "fork", "")]
        lines += [(_EQUAL, socket.htonl(what), "task", "") for what in (wire.EXIT, wire.COMM)]
    lines += [(_EQUAL, socket.htonl(what), _REJECT, "") for what in rejected]
    lines += [(_RETURN, _ALL_BYTES)]
    lines += ["fork", *_are_equal(wire.CHILD_TID_OFFSET, wire.CHILD_TGID_OFFSET)]
    lines += ["task", *_are_equal(wire.TID_OFFSET, wire.TGID_OFFSET)]
    return _assemble([*lines, *_VERDICTS])


def type_program(what: int) -> bytes:
    """For the connector: events of one type alone."""
    return _assemble([(_WORD, wire.WHAT_OFFSET), (_EQUAL, socket.htonl(what), _PASS, _REJECT), *_VERDICTS])


def records_program(family: int, needs: Needs) -> bytes:
    """For the accounting, whose messages are of this family: the records that are needed, and whatever is no record."""
    if needs.tasks:
        return _assemble([(_RETURN, _ALL_BYTES)])
    stats_at = taskstats.FIRST_STATS_AT
    padding = taskstats.ATTRIBUTE_BYTES
    lines: list[_Line] = [
        *((_LENGTH, 0), (_AT_LEAST, stats_at + padding + taskstats.KNOWN_BYTES, "", _PASS)),
        *((_HALF, taskstats.TYPE_AT), (_EQUAL, socket.htons(family), "", _PASS)),
        *((_BYTE, taskstats.COMMAND_AT), (_EQUAL, taskstats.CMD_NEW, "", _PASS)),
        *_is_attribute(taskstats.HEAD_BYTES, taskstats.TYPE_AGGR_PID, "", _PASS),
        *_is_attribute(stats_at - padding, taskstats.TYPE_STATS, "plain", ""),
        # Where 64-bit values must be aligned.
        *_is_attribute(stats_at - padding, taskstats.TYPE_NULL, "", _PASS),
        *_is_attribute(stats_at, taskstats.TYPE_STATS, "padded", _PASS),
    ]
    lines += ["plain", *_is_needed(stats_at), "padded", *_is_needed(stats_at + padding)]
    return _assemble([*lines, *_VERDICTS])


def attach(sock: socket.socket, program: bytes) -> None:
    """Have the kernel filter what this socket gets, from now on by this program. Raises KernelError."""
    instructions = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _SOCK_FILTER.size
    argument = _SOCK_FPROG.pack(count, ctypes.addressof(instructions))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
    except OSError as error:
        raise KernelError(
            f"the kernel takes no filter for a socket: {os.strerror(error.errno or 0)}"
        ) from error


def _are_equal(one_at: int, other_at: int) -> list[_Line]:
    """Two words are the same."""
    return [(_WORD, one_at), (_TO_X, 0), (_WORD, other_at), (_EQUAL_X, 0, _PASS, _REJECT)]


def _is_attribute(at: int, kind: int, then: str, otherwise: str) -> list[_Line]:
    """An attribute is of this type: struct nlattr { u16 len; u16 type; }."""
    return [(_HALF, at + 2), (_EQUAL, socket.htons(kind), then, otherwise)]


def _is_needed(at: int) -> list[_Line]:
    """A struct taskstats is of a leader, of the last task, of one whose status is not 0; or of no layout we know."""
    version_at = at + taskstats.VERSION_AT
    return [
        *((_BYTE, version_at + _HIGH), (_EQUAL, 0, "", _PASS)),
        *((_BYTE, version_at + _LOW), (_AT_LEAST, taskstats.OLDEST_VERSION, "", _PASS)),
        (_EQUAL, taskstats.ODD_VERSION, _PASS, ""),
        *((_BYTE, at + taskstats.FLAGS_AT), (_HAS_BITS, taskstats.LAST, _PASS, "")),
        *((_WORD, at + taskstats.STATUS_AT), (_EQUAL, 0, "", _PASS)),
        *_are_equal(at + taskstats.TID_AT, at + taskstats.TGID_AT),
    ]


def _assemble(lines: Sequence[_Line]) -> bytes:
    """The program for the kernel. A label stands for the instruction after it."""
    places: dict[str, int] = {}
    instructions: list[tuple[int, int] | tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(instructions)
        else:
            instructions.append(line)
    program = b""
    for n, (code, value, *labels) in enumerate(instructions):
        then, otherwise = [places[label] - n - 1 if label else 0 for label in labels] or (0, 0)
        program += _SOCK_FILTER.pack(code, then, otherwise, value)
    return program
