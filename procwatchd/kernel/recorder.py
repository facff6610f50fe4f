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
import hashlib
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import cpus
from procwatchd.kernel.libbpf import BpfObject, Rings, misses, words
from procwatchd.kernel.marks import Marks

OBJECT = os.path.join(os.path.dirname(__file__), f"recorder.{sys.byteorder}.bpf.o")
BTF = "/sys/kernel/btf/vmlinux"
LOCKDOWN = "/sys/kernel/security/lockdown"

# As the source has it.
COPIES = 4
_MAPS = ("execs", "signals", "pending")
_PROGRAMS = ("record_signal", "record_victim", "count_fork")

# Limits. Rings are powers of two. Of a CPU in use some hundreds of execs must have room while the listener lets them
# gather, or fewer of the longest.
EXECS_BYTES_PER_CPU = 512 << 10
EXECS_BYTES = (2 << 20, 16 << 20)
_COUNTERS = (
    *(Marks.EXECS_LOST, Marks.SIGNALS_LOST, Marks.PENDING_LOST),
    *(Marks.QUEUE_EXECS, Marks.QUEUE_SIGNALS),
)
# What is taken at once; the rest is there the next time.
TAKEN = 1 << 16


class Recordings(NamedTuple):
    """What was recorded since the last time: items for recording.decode_exec, in order, and for decode_signal."""

    execs: list[bytes]
    signals: list[bytes]


NO_RECORDINGS = Recordings([], [])


class Recorder:
    """Records from when it is made until `close`. Raises KernelError or DeniedError where that cannot be had.

    `fds` are the descriptors, by name, that keep it going. Of `kept` ones, of a recorder of the same object, another
    one is made, which goes on where that one stopped; of what was lost, up to what `marks` say others have told.

    One thread drains; the counters are for any.
    """

    def __init__(
        self, path: str = OBJECT, *, kept: dict[str, int] | None = None, marks: Marks | None = None
    ) -> None:
        self._execs: list[bytes] = []
        self._signals: list[bytes] = []
        self._pending: list[bytes] = []
        gathering = {"execs": self._execs, "signals": self._signals, "pending": self._pending}
        self.is_kept = bool(kept)
        self._object: BpfObject | None = None
        try:
            if kept:
                self.fds = kept
            else:
                self._object = _load(path)
                self.fds = _descriptors(self._object)
            self._counts = words(self.fds["counts"])
            self._rings = Rings({self.fds[name]: _gather(items) for name, items in gathering.items()})
            self._told = (marks or Marks()).told(*_COUNTERS, is_kept=self.is_kept)
            self._forks_missed = misses(self.fds["count_fork"])
        except OSError as error:
            if self._object is not None:
                self._object.close()
            raise _refusal(error) from error

    def drain(self) -> Recordings:
        """What the rings have. Never waits."""
        self._rings.consume()
        taken = Recordings(self._execs.copy(), self._signals + self._pending)
        for items in (self._execs, self._signals, self._pending):
            items.clear()
        return taken

    def fileno(self) -> int:
        """A descriptor that can be read where a ring gets full, until it is looked at with the rings empty."""
        return self._rings.fileno()

    @property
    def lost_execs(self) -> int:
        """How many execs had no room in the ring, without those told of by others before us."""
        return self._counts[0] - self._told[0]

    @property
    def lost_signals(self) -> int:
        """The same of signals, with those that the kernel left out."""
        left_out = misses(self.fds["record_signal"]) + misses(self.fds["record_victim"])
        return self._counts[1] + left_out - self._told[1]

    @property
    def lost_pending(self) -> int:
        """The same of signals that were blocked."""
        return self._counts[2] - self._told[2]

    @property
    def process_forks(self) -> int | None:
        """How many processes, not threads, were forked since it was loaded; None where the kernel left some out."""
        return None if misses(self.fds["count_fork"]) != self._forks_missed else self._counts[3]

    def close(self) -> None:
        """Use it no more; it ends where nobody else keeps its descriptors."""
        self._rings.close()
        if self._object is not None:
            self._object.close()
        else:
            for fd in self.fds.values():
                os.close(fd)


def identity(path: str = OBJECT) -> str:
    """What tells the object from any other one: only of the same a recorder goes on. Empty where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]
    except OSError:
        return ""


def is_whole(kept: dict[str, int]) -> bool:
    """Whether nothing is missing of a recorder's descriptors: each of its links says how many there are."""
    links = [name for name in kept if name.startswith("link")]
    wanted = {*_MAPS, *_PROGRAMS, "counts", *_link_names(len(links))}
    return bool(links) and set(kept) == wanted


def _link_names(count: int) -> list[str]:
    return [f"link{n}of{count}" for n in range(count)]


def _load(path: str) -> BpfObject:
    if not os.path.exists(path):
        raise KernelError("the recorder was not built: that takes clang and libbpf-dev")
    if not is_64_bit(os.uname().machine):
        raise KernelError("the recorder needs a machine of 64 bits")
    ring_bytes = _ring_bytes((os.cpu_count() or 1) * EXECS_BYTES_PER_CPU)
    try:
        return BpfObject(path, {"scratches": cpus.possible() * COPIES, "execs": ring_bytes})
    except OSError as error:
        raise _refusal(error) from error


def _descriptors(loaded: BpfObject) -> dict[str, int]:
    maps = {name: loaded.map(name) for name in _MAPS}
    programs = {name: loaded.program(name) for name in _PROGRAMS}
    attached = loaded.links()
    links = dict(zip(_link_names(len(attached)), attached, strict=True))
    return {**maps, "counts": loaded.map(".bss"), **programs, **links}


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
