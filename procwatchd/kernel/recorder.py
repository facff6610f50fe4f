# SPDX-License-Identifier: MIT
"""The recorder: what each exec made, and who sent each deadly signal, told by programs inside the kernel.

Facts:
- It takes a kernel with BTF and of 5.17 or later (bpf_loop), CAP_BPF and CAP_PERFMON, and no lockdown=confidentiality.
- What an exec made is in its ring before the EXEC arrives, a signal before the EXIT of whom it ends [recorder.bpf.c].
- The pages of a ring are mapped twice, and count as ours. What others write there is bounded by its size.

Nobody is woken for what is in the rings, as the events that belong to it do that; but where a ring is half full.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import cpus
from procwatchd.kernel.libbpf import BpfObject

OBJECT = os.path.join(os.path.dirname(__file__), f"recorder.{sys.byteorder}.bpf.o")
BTF = "/sys/kernel/btf/vmlinux"
LOCKDOWN = "/sys/kernel/security/lockdown"

# As the source has it.
COPIES = 4

# Limits. Rings are powers of two. Of a CPU in use some hundreds of execs must have room while the listener lets them
# gather, or fewer of the longest.
EXECS_BYTES_PER_CPU = 512 << 10
EXECS_BYTES = (2 << 20, 16 << 20)
# What is taken at once; the rest is there the next time.
TAKEN = 1 << 16


class Recordings(NamedTuple):
    """What was recorded since the last time: items for recording.decode_exec, in order, and for decode_signal."""

    execs: list[bytes]
    signals: list[bytes]


NO_RECORDINGS = Recordings([], [])


class Recorder:
    """Records from when it is made until `close`. Raises KernelError or DeniedError where that cannot be had.

    One thread drains; the counters are for any.
    """

    def __init__(self, path: str = OBJECT) -> None:
        if not os.path.exists(path):
            raise KernelError("the recorder was not built: that takes clang and libbpf-dev")
        if not is_64_bit(os.uname().machine):
            raise KernelError("the recorder needs a machine of 64 bits")
        ring_bytes = _ring_bytes((os.cpu_count() or 1) * EXECS_BYTES_PER_CPU)
        entries = {"scratches": cpus.possible() * COPIES, "execs": ring_bytes}
        self._execs: list[bytes] = []
        self._signals: list[bytes] = []
        self._pending: list[bytes] = []
        try:
            self._object = BpfObject(path, entries)
        except OSError as error:
            raise _refusal(error) from error
        try:
            self._counts = self._object.words(".bss")
            self._signals_missed = self._object.misses("record_signal", "record_victim")
            self._forks_missed = self._object.misses("count_fork")
            self._consume = self._object.read_rings(
                {
                    "execs": _gather(self._execs),
                    "signals": _gather(self._signals),
                    "pending": _gather(self._pending),
                }
            )
        except OSError as error:
            self._object.close()
            raise _refusal(error) from error

    def drain(self) -> Recordings:
        """What the rings have. Never waits."""
        self._consume()
        taken = Recordings(self._execs.copy(), self._signals + self._pending)
        for items in (self._execs, self._signals, self._pending):
            items.clear()
        return taken

    def fileno(self) -> int:
        """A descriptor that can be read where a ring gets full, until it is looked at with the rings empty."""
        return self._object.rings_fileno()

    @property
    def lost_execs(self) -> int:
        """How many execs had no room in the ring."""
        return self._counts[0]

    @property
    def lost_signals(self) -> int:
        """How many signals had no room in theirs, or were left out by the kernel."""
        return self._counts[1] + self._signals_missed()

    @property
    def lost_pending(self) -> int:
        """How many signals that were blocked had no room in theirs."""
        return self._counts[2]

    @property
    def process_forks(self) -> int | None:
        """How many processes, not threads, were forked since it was made; None where the kernel left some out."""
        return None if self._forks_missed() else self._counts[3]

    def close(self) -> None:
        """Record no more; nothing of it may be used any longer."""
        self._object.close()


def _gather(items: list[bytes]) -> Callable[[bytes], bool]:
    append = items.append

    def read(item: bytes) -> bool:
        append(item)
        return len(items) < TAKEN

    return read


def is_64_bit(machine: str) -> bool:
    """Whether such a machine has the sizes that the programs were compiled for."""
    return "64" in machine or machine == "s390x"


def _ring_bytes(wanted: int) -> int:
    """The next power of two, within the limits."""
    least, most = EXECS_BYTES
    return int(min(max(1 << (wanted - 1).bit_length(), least), most))


def _refusal(error: OSError) -> KernelError | DeniedError:
    """Why there is no recorder, from what can be seen from here."""
    if "libbpf.so" in str(error):
        return KernelError("the recorder needs libbpf.so.1 (libbpf1), 1.0 or later")
    if not _is_at_least(5, 17):
        return KernelError("the recorder needs Linux 5.17 or later")
    if not os.path.exists(BTF):
        return KernelError("the recorder needs a kernel that describes its types (CONFIG_DEBUG_INFO_BTF)")
    if _is_locked_down():
        return KernelError("the kernel is locked down to confidentiality, which allows no recorder")
    if error.errno in (errno.EPERM, errno.EACCES):
        return DeniedError(
            "no permission for the recorder: CAP_BPF or CAP_PERFMON is missing, or bpf(2) is filtered"
        )
    return KernelError(f"the kernel does not take the recorder: {error.strerror or error}")


def _is_at_least(*wanted: int) -> bool:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is None or (int(found[1]), int(found[2])) >= wanted


def _is_locked_down() -> bool:
    try:
        with open(LOCKDOWN, "rb") as file:
            return b"[confidentiality]" in file.read()
    except OSError:
        return False
