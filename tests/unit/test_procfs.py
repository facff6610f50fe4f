# SPDX-License-Identifier: MIT
"""Reading /proc/PID, from a tree of the tests' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.process.executables import Checksum
from procwatchd.process.procfs import (
    ARGV_BYTES,
    ARGV_READ_BYTES,
    ARGV_TAIL_BYTES,
    ENVIRON_BYTES,
    Ids,
    NotRead,
    Reader,
    Reading,
    Wants,
    parse_ids,
    parse_stat,
    select_environment,
)
from tests.unit.fakeproc import FakeProc

EVERYTHING = Wants(checksum=True, environment=(b"LANG", b"MISSING"))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def reader(proc: FakeProc, wants: Wants = EVERYTHING) -> Reader:
    return Reader(wants, proc=str(proc.root), sys=str(proc.root / "sys"))


def test_everything_of_a_process(proc: FakeProc) -> None:
    proc.add(
        42,
        comm=b"rsync",
        exe="/usr/bin/rsync",
        cmdline=b"rsync\0-a\0",
        ppid=7,
        start=12345,
        uid=1000,
        loginuid=1000,
        tty=136 << 8 | 3,
        mounts=4026532000,
    )
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert reading.stat.comm == b"rsync"
    assert (reading.stat.ppid, reading.stat.start_ticks, reading.stat.threads) == (7, 12345, 1)
    assert (reading.exe, reading.argv, reading.argv_bytes) == (b"/usr/bin/rsync", b"rsync\0-a\0", 9)
    assert reading.ids == Ids(1000, 1000, 1000, 1000)
    context = reading.context
    assert (context.cwd, context.tty, context.sid) == (b"/srv", "pts/3", 42)
    assert (context.loginuid, context.audit_session) == (1000, 1000)
    assert context.place is not None
    assert context.place.unit == b"prog.service"
    assert (context.mount_namespace, context.user_namespace, context.host_mounts) == (4026532000, None, False)
    assert reading.environment == {"LANG": b"C"}
    assert reading.checksum == Checksum(is_late=False)  # there is no such file behind the link


def test_what_nobody_wants_is_not_read(proc: FakeProc) -> None:
    proc.add(42, loginuid=5, mounts=1)
    for name in ("cgroup", "loginuid", "sessionid", "environ"):
        (proc.root / "42" / name).unlink()
        os.mkfifo(proc.root / "42" / name)  # whoever opens one to read, waits for ever
    wants = Wants(cwd=False, tty=False, loginuid=False, audit_session=False, cgroup=False, namespaces=False)
    reading = reader(proc, wants).read(42)
    assert isinstance(reading, Reading)
    context = reading.context
    assert (context.cwd, context.loginuid, context.place, context.mount_namespace) == (None, None, None, None)
    assert not context.host_mounts


@pytest.mark.parametrize(
    ("state", "call", "is_held"),
    [
        (b"t", b"59 0x7f 0x1 0x2 0x0 0x0 0x0 0x7ffe 0x7f\n", True),
        (b"t", b"322 0x7f\n", True),
        (b"t", b"202 0x7f\n", False),
        (b"t", b"-1 0x7ffe 0x7f\n", False),
        (b"t", b"running\n", False),
        (b"t", None, True),  # nobody can tell
        (b"S", b"59 0x7f\n", False),
    ],
)
def test_whom_a_tracer_holds_amid_an_exec(
    proc: FakeProc, state: bytes, call: bytes | None, is_held: bool
) -> None:
    proc.add(42, state=state)
    if call is not None:
        (proc.root / "42" / "syscall").write_bytes(call)
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert reading.is_held == reader(proc).is_held(42) == is_held


def test_host_mounts_are_known_only_when_read(proc: FakeProc) -> None:
    proc.add(42)
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert reading.context.host_mounts
    (proc.root / "42" / "ns" / "mnt").unlink()
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert not reading.context.host_mounts


def test_no_such_process(proc: FakeProc) -> None:
    assert reader(proc).read(43) is NotRead.GONE


def test_a_zombie_has_no_arguments(proc: FakeProc) -> None:
    proc.add(42, state=b"Z", exe=None, cmdline=b"")
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert (reading.argv, reading.exe) == (None, None)


def test_amid_an_exec_there_is_an_image_without_arguments(proc: FakeProc) -> None:
    proc.add(42, cmdline=b"")
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert (reading.argv, reading.exe) == (None, b"/usr/bin/prog")


@pytest.mark.parametrize("size", [4095, 4096, 4097, ARGV_BYTES - 1, ARGV_BYTES, ARGV_BYTES + 1, 2 << 20])
def test_long_arguments(proc: FakeProc, size: int) -> None:
    argv = (b"".join(b"%d\0" % n for n in range(400_000)))[:size]
    proc.add(42, cmdline=argv)
    taking = reader(proc)
    reading = taking.read(42)
    assert isinstance(reading, Reading)
    assert reading.argv == argv[:ARGV_BYTES]
    assert reading.argv_bytes == size
    assert reading.argv_tail == (argv[-ARGV_TAIL_BYTES:] if size > ARGV_BYTES else b"")
    assert taking.truncated_argv == (size > ARGV_BYTES)


def test_arguments_without_end_are_not_read_to_the_end(proc: FakeProc) -> None:
    """A process can make its cmdline any length, by prctl(PR_SET_MM)."""
    proc.add(42)
    with (proc.root / "42" / "cmdline").open("wb") as cmdline:
        cmdline.truncate(1 << 40)
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert ARGV_READ_BYTES <= reading.argv_bytes <= ARGV_READ_BYTES + ARGV_BYTES


@pytest.mark.parametrize("comm", [b") R 1 (", b"a\nb", b"\xff", b"", b"(((", b") Z 0 0 0 0"])
def test_hostile_comm_in_stat(proc: FakeProc, comm: bytes) -> None:
    proc.add(42, comm=comm, ppid=9, start=77)
    reading = reader(proc).read(42)
    assert isinstance(reading, Reading)
    assert (reading.stat.comm, reading.stat.ppid, reading.stat.start_ticks) == (comm, 9, 77)


def test_terminals_beside_pts_come_from_sysfs(proc: FakeProc) -> None:
    links = proc.root / "sys" / "dev" / "char"
    links.mkdir(parents=True)
    os.symlink("../../devices/pnp0/tty/ttyS0", links / "4:64")
    proc.add(42, tty=4 << 8 | 64)
    proc.add(43, tty=4 << 8 | 99)
    taking = reader(proc)
    names = [reading.context.tty for pid in (42, 43) if isinstance(reading := taking.read(pid), Reading)]
    assert names == ["ttyS0", None]


def test_nothing_stays_open(proc: FakeProc) -> None:
    proc.add(42)
    taking = reader(proc)
    before = os.listdir("/proc/self/fd")
    for _ in range(50):
        taking.read(42)
        taking.read(43)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_environment_takes_the_first_and_only_the_named() -> None:
    environ = b"A=1\0B=2\0A=3\0nonsense\0C=x=y\0\xff=z"
    assert select_environment(environ, (b"A", b"C")) == {"A": b"1", "C": b"x=y"}


@pytest.mark.parametrize(
    ("after", "is_cut"), [(b"", False), (b"LAST=whole\0", False), (b"LAST=much longer\0", True)]
)
def test_a_long_environment_is_cut_between_variables(proc: FakeProc, after: bytes, is_cut: bool) -> None:
    proc.add(42)
    padding = b"PAD=" + b"x" * (ENVIRON_BYTES - len(b"FIRST=a\0PAD=\0LAST=whole\0") - 1) + b"\0"
    (proc.root / "42" / "environ").write_bytes(b"FIRST=a\0" + padding + after)
    reading = reader(proc, Wants(environment=(b"FIRST", b"LAST"))).read(42)
    assert isinstance(reading, Reading)
    assert reading.is_environment_cut is is_cut
    assert reading.environment == {"FIRST": b"a"} | ({"LAST": b"whole"} if after and not is_cut else {})


@given(st.binary(max_size=300))
def test_parsers_take_anything(data: bytes) -> None:
    parse_stat(data)
    parse_ids(data)
    select_environment(data, (b"A",))


def test_an_exec_between_two_reads_spoils_the_reading(
    proc: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.add(42, exe="/usr/bin/env", cmdline=b"env\0next\0")
    real_readlink = os.readlink
    seen = 0

    def readlink(path: bytes, *, dir_fd: int | None = None) -> bytes:
        nonlocal seen
        if path == b"exe":
            seen += 1
            if seen == 2:
                return b"/usr/bin/next"
        return real_readlink(path, dir_fd=dir_fd)

    taking = reader(proc)
    monkeypatch.setattr(os, "readlink", readlink)
    reading = taking.read(42)
    assert isinstance(reading, Reading)
    assert reading.argv is None
