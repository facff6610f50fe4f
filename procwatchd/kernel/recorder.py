# SPDX-License-Identifier: MIT
"""The recorder: what each exec made, and who sent each deadly signal, told by programs inside the kernel.

Facts:
- It takes a kernel with BTF and of 5.17 or later (bpf_loop), CAP_BPF and CAP_PERFMON, and no lockdown=confidentiality.
- What an exec made is in its ring before the EXEC arrives, a signal before the EXIT of whom it ends [recorder.bpf.c].
- The pages of a ring are mapped twice, and count as ours. What others write there is bounded by its size.

Nobody is woken for what is in the rings: the events that belong to it do that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import cpus
from procwatchd.kernel.libbpf import BpfObject

OBJECT = os.path.join(os.path.dirname(__file__), "recorder.bpf.o")
BTF = "/sys/kernel/btf/vmlinux"
LOCKDOWN = "/sys/kernel/security/lockdown"

# Limits. Both rings are powers of two. What a CPU can exec while the listener gathers is some hundreds.
EXECS_BYTES_PER_CPU = 512 << 10
EXECS_BYTES = (1 << 20, 64 << 20)
# Anybody can send themselves signals as fast as they like: so many are worth looking at, at a time.
SIGNALS_BYTES = 128 << 10
# What is taken at once; the rest is there the next time.
TAKEN = 1 << 16


class Recordings(NamedTuple):
    """What was recorded since the last time: items for recording.decode_exec and decode_signal, in order."""

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
        count = cpus.possible()
        entries = {
            "scratches": count,
            "execs": _ring_bytes(count * EXECS_BYTES_PER_CPU),
            "signals": SIGNALS_BYTES,
        }
        self._execs: list[bytes] = []
        self._signals: list[bytes] = []
        try:
            self._object = BpfObject(path, entries)
        except OSError as error:
            raise _refusal(error) from error
        try:
            self._counts = self._object.words(".bss")
            self._consume = self._object.read_rings(
                {"execs": _gather(self._execs), "signals": _gather(self._signals)}
            )
        except OSError as error:
            self._object.close()
            raise _refusal(error) from error

    def drain(self) -> Recordings:
        """What the rings have. Never waits."""
        self._consume()
        taken = Recordings(self._execs.copy(), self._signals.copy())
        self._execs.clear()
        self._signals.clear()
        return taken

    @property
    def lost_execs(self) -> int:
        """How many execs had no room in the ring."""
        return self._counts[0]

    @property
    def lost_signals(self) -> int:
        """How many signals had no room in theirs."""
        return self._counts[1]

    @property
    def process_forks(self) -> int:
        """How many processes, not threads, were forked since it was made."""
        return self._counts[2]

    def close(self) -> None:
        """Record no more; nothing of it may be used any longer."""
        self._object.close()


def _gather(items: list[bytes]) -> Callable[[bytes], bool]:
    append = items.append

    def read(item: bytes) -> bool:
        append(item)
        return len(items) < TAKEN

    return read


def _ring_bytes(wanted: int) -> int:
    """The next power of two, within the limits."""
    least, most = EXECS_BYTES
    return int(min(max(1 << (wanted - 1).bit_length(), least), most))


def _refusal(error: OSError) -> KernelError | DeniedError:
    """Why there is no recorder, from what can be seen from here."""
    if "libbpf.so" in str(error):
        return KernelError("the recorder needs libbpf.so.1 (libbpf1)")
    if not os.path.exists(BTF):
        return KernelError("the recorder needs a kernel that describes its types (CONFIG_DEBUG_INFO_BTF)")
    if _is_locked_down():
        return KernelError("the kernel is locked down to confidentiality, which allows no recorder")
    if error.errno in (errno.EPERM, errno.EACCES):
        return DeniedError("no permission for the recorder: CAP_BPF and CAP_PERFMON are missing")
    return KernelError(f"the kernel does not take the recorder: {error.strerror or error}")


def _is_locked_down() -> bool:
    try:
        with open(LOCKDOWN, "rb") as file:
            return b"[confidentiality]" in file.read()
    except OSError:
        return False
