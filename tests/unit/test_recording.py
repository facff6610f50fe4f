# SPDX-License-Identifier: MIT
"""The recorder's layout, as bytes literals; and whether it is the one that the kernel's side has."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.kernel import recording
from procwatchd.kernel.recording import (
    NO_AUDIT_ID,
    TO_GROUP,
    ExecRecording,
    SignalRecording,
    decode_exec,
    decode_signal,
)

SOURCE = Path(recording.__file__).with_name("recorder.bpf.c").read_text()
EXEC_HEAD = struct.Struct("=QQ 14I 6H 16s I")

# Captured on Linux 6.18: `env … /bin/echo 'a b' $'\xff'` of uid 65534, a script, a program whose directory was removed.
ENV = bytes.fromhex(
    "6a0f449d0a0c0000 1ec2269d0a0c0000 427e0000 a07d0000 feff0000 feff0000 00000000 00000000 ffffffff ffffffff"
    "ab6a0000 00000000 f8ffffef fdffffef 17000000 00000000 0d00 0c00 0a00 0000 1700 0000"
    "656e7600000000000000000000000000 00000000 2f7573722f62696e2f656e7600 656e760062696e0075737200"
    "736861726500757372 00 656e76002d69002f62696e2f6563686f0061206200ff00"
)
SCRIPT = bytes.fromhex(
    "df287350260c0000 5e117050260c0000 ba700000 4f6a0000 00000000 00000000 00000000 00000000 ffffffff ffffffff"
    "ab6a0000 00000000 f8ffffef fdffffef 11000000 00000000 0700 0d00 0a00 0000 1100 0000"
    "732e7368000000000000000000000000 00000000 2e2f732e736800 646173680062696e0075737200"
    "706c61636500746d7000 2f62696e2f7368002e2f732e7368007800"
)
REMOVED = bytes.fromhex(
    "38e09850260c0000 0bd77c50260c0000 d0700000 4f6a0000 00000000 00000000 00000000 00000000 ffffffff ffffffff"
    "ab6a0000 00000000 f8ffffef fdffffef 0a000000 04000000 0a00 0d00 0f00 0000 0a00 0000"
    "74727565000000000000000000000000 00000000 2f62696e2f7472756500 747275650062696e0075737200"
    "676f6e6500706c61636500746d7000 2f62696e2f7472756500"
)
# SIGTERM by kill(2) to a `sleep` that let it.
TERM = bytes.fromhex(
    "c3eb3aa40a0c0000 34dd409e0a0c0000 019e18940a0c0000 01000000 0f000000 587e0000 587e0000 a07d0000 00000000"
    "02000000 707974686f6e00000000000000000000 00000000"
)


@dataclasses.dataclass
class Made:
    """An item for the ring of execs, of its parts."""

    comm: bytes = b"prog"
    flags: int = 0
    argv_bytes: int | None = None
    filename: bytes = b"/bin/prog\0"
    exe: bytes = b"prog\0bin\0"
    cwd: bytes = b""
    cgroup: bytes = b"prog.service\0system.slice\0"
    argv: bytes = b"prog\0"
    tail: bytes = b""
    ns: int = 0
    start_ns: int = 1_000_000_000
    tgid: int = 42
    ppid: int = 1
    ids: tuple[int, int, int, int] = (0, 0, 0, 0)
    audit: tuple[int, int] = (NO_AUDIT_ID, NO_AUDIT_ID)
    sid: int = 42
    tty: int = 0
    namespaces: tuple[int, int] = (4026531832, 4026531837)

    def item(self) -> bytes:
        """As the kernel gives it."""
        data = (self.filename, self.exe, self.cwd, self.cgroup, self.argv, self.tail)
        size = len(self.argv) if self.argv_bytes is None else self.argv_bytes
        head = (self.ns, self.start_ns, self.tgid, self.ppid, *self.ids, *self.audit, self.sid, self.tty)
        return EXEC_HEAD.pack(
            *head, *self.namespaces, size, self.flags, *map(len, data), self.comm, 0
        ) + b"".join(data)


def decoded(made: Made) -> ExecRecording:
    found = decode_exec(made.item())
    assert found is not None
    return found


def test_a_captured_exec() -> None:
    assert decode_exec(ENV) == ExecRecording(
        ns=13239727689578,
        start_ticks=1323972,
        tgid=32322,
        ppid=32160,
        uid=65534,
        euid=65534,
        gid=0,
        egid=0,
        loginuid=NO_AUDIT_ID,
        audit_session=NO_AUDIT_ID,
        sid=27307,
        tty=0,
        mount_namespace=4026531832,
        user_namespace=4026531837,
        argv_bytes=23,
        comm=b"env",
        filename=b"/usr/bin/env",
        exe=b"/usr/bin/env",
        cwd=b"/usr/share",
        cgroup=b"/",
        argv=b"env\0-i\0/bin/echo\0a b\0\xff\0",
        argv_tail=b"",
    )


def test_a_captured_script_has_its_own_path_and_its_interpreters() -> None:
    script = decode_exec(SCRIPT)
    assert script is not None
    assert (script.filename, script.exe, script.comm) == (b"./s.sh", b"/usr/bin/dash", b"s.sh")
    assert script.argv == b"/bin/sh\0./s.sh\0x\0"


def test_a_captured_directory_that_is_no_more() -> None:
    removed = decode_exec(REMOVED)
    assert removed is not None
    assert (removed.cwd, removed.exe) == (b"/tmp/place/gone (deleted)", b"/usr/bin/true")


def test_a_captured_signal() -> None:
    assert decode_signal(TERM) == SignalRecording(
        kind=recording.SIGNAL,
        ns=13239844531139,
        signal=15,
        tgid=32344,
        tid=32344,
        start_ticks=1323974,
        sender_tgid=32160,
        sender_uid=0,
        sender_start_ticks=1323957,
        sender_comm=b"python",
        flags=TO_GROUP,
    )


@pytest.mark.parametrize("item", [ENV, SCRIPT, REMOVED])
def test_of_what_is_not_whole_nothing_is_told(item: bytes) -> None:
    assert decode_exec(item) is not None
    assert [decode_exec(item[:size]) for size in range(len(item))] == [None] * len(item)
    assert decode_exec(item + b"\0") is None


def test_nor_of_a_signal() -> None:
    assert [decode_signal(TERM[:size]) for size in range(len(TERM))] == [None] * len(TERM)
    assert decode_signal(TERM + b"\0") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value(data: bytes) -> None:
    for decode in (decode_exec, decode_signal):
        found = decode(data)
        assert found is None or data


@given(st.data(), st.binary(max_size=120))
def test_any_bytes_of_the_right_lengths_are_a_recording(data: st.DataObject, content: bytes) -> None:
    """Names without an end, and empty ones, too: whatever was in the memory that was read."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), min_size=5, max_size=5)))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    flags = data.draw(st.integers(0, 63))
    comm = data.draw(st.binary(min_size=16, max_size=16))
    filename, exe, cwd, cgroup, argv, tail = parts
    found = decoded(Made(comm, flags, 7, filename, exe, cwd, cgroup, argv, tail))
    for path in (found.exe, found.cwd, found.cgroup):
        assert path is None or path.startswith(b"/")
    assert found.argv_tail == tail
    assert found.argv in (None, argv)


@given(st.binary(min_size=72, max_size=72))
def test_any_bytes_of_its_length_are_a_signal(data: bytes) -> None:
    found = decode_signal(data)
    assert found is not None
    assert b"\0" not in found.sender_comm


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (b"", b"/"),
        (b"prog\0", b"/prog"),
        (b"c\0b\0a\0", b"/a/b/c"),
        (b"a\nb) R 1 (\xff\0tmp\0", b"/tmp/a\nb) R 1 (\xff"),
        (b"x" * 255 + b"\0", b"/" + b"x" * 255),
    ],
)
def test_paths_are_put_together_from_the_end(names: bytes, path: bytes) -> None:
    found = decoded(Made(exe=names, cwd=names, cgroup=names))
    assert (found.exe, found.cwd, found.cgroup) == (path, path, path)


def test_a_path_says_where_it_is_no_more() -> None:
    exe = decoded(Made(exe=b"memfd:x\0", cwd=b"d\0tmp\0", flags=recording.EXE_DELETED))
    assert (exe.exe, exe.cwd) == (b"/memfd:x (deleted)", b"/tmp/d")
    cwd = decoded(Made(exe=b"x\0", cwd=b"d\0tmp\0", flags=recording.CWD_DELETED))
    assert (cwd.exe, cwd.cwd) == (b"/x", b"/tmp/d (deleted)")


def test_of_a_path_that_is_cut_nothing_is_told() -> None:
    """What is left is the end of it: it would be another path."""
    cut = {
        "exe": recording.EXE_CUT | recording.EXE_DELETED,
        "cwd": recording.CWD_CUT | recording.CWD_DELETED,
        "cgroup": recording.CGROUP_CUT,
    }
    for name, flags in cut.items():
        found = decoded(Made(cwd=b"d\0", flags=flags))
        assert [other for other in cut if getattr(found, other) is None] == [name]


def test_arguments_that_could_not_be_read_are_not_there() -> None:
    found = decoded(Made(flags=recording.ARGV_UNREAD, argv=b"", argv_bytes=77))
    assert (found.argv, found.argv_bytes) == (None, 77)
    # Nor what was given, where that is so of it.
    assert decoded(Made(filename=b"")).filename is None
    assert decoded(Made(filename=b"\0")).filename == b""


def test_long_arguments_have_a_head_and_a_tail() -> None:
    found = decoded(Made(argv=b"a" * 8192, tail=b"z" * 4095 + b"\0", argv_bytes=200_000))
    assert (found.argv, found.argv_bytes) == (b"a" * 8192, 200_000)
    assert found.argv_tail == b"z" * 4095 + b"\0"


SIZES = {"__u64": 8, "__u32": 4, "__u16": 2}


def fields_in_c(name: str) -> list[tuple[str, int]]:
    """The fields of one of the recorder's structures, with their sizes."""
    body = re.search(rf"struct {name} {{\n(.*?)}};", SOURCE, re.DOTALL)
    assert body is not None
    found = []
    for line in filter(None, map(str.strip, body[1].splitlines())):
        kind, names = line.removesuffix(";").split(" ", 1)
        for one in names.split(", "):
            found += [(one.partition("[")[0], 16 if kind == "char" else SIZES[kind])]
    return found


EXEC_FIELDS = (
    "ns start_ns tgid ppid uid euid gid egid loginuid audit_session sid tty mount_namespace user_namespace argv_bytes "
    "flags filename exe cwd cgroup argv tail comm unused"
)
SIGNAL_FIELDS = (
    "ns start_ns sender_start_ns kind signal tgid tid sender_tgid sender_uid flags sender_comm unused"
)


@pytest.mark.parametrize(
    ("name", "layout", "names"),
    [
        ("exec_record", recording._EXEC, EXEC_FIELDS),
        ("signal_record", recording._SIGNAL, SIGNAL_FIELDS),
    ],
)
def test_both_sides_have_one_layout(name: str, layout: struct.Struct, names: str) -> None:
    """Each field, in order, where the compiler puts it: nowhere must it leave a gap."""
    fields = fields_in_c(name)
    assert [field for field, _ in fields] == names.split()
    offset = 0
    for _, size in fields:
        assert offset % min(size, 8 if size != 16 else 1) == 0
        offset += size
    assert offset == layout.size
    assert offset % 8 == 0
    letters = re.sub(r"\d+s|\d+x", "", layout.format.replace(" ", "").removeprefix("="))
    counts = "".join(letter * int(count or 1) for count, letter in re.findall(r"(\d*)([A-Z])", letters))
    assert counts == "".join({8: "Q", 4: "I", 2: "H"}[size] for _, size in fields[:-2])


@pytest.mark.parametrize(
    "line",
    [
        "EXE_DELETED = 1 EXE_CUT = 2 CWD_DELETED = 4 CWD_CUT = 8 CGROUP_CUT = 16 ARGV_UNREAD = 32",
        "SIGNAL = 1 OOM_VICTIM = 2",
        "BLOCKED = 1 TO_GROUP = 2 TRACED = 4",
    ],
)
def test_both_sides_have_the_same_numbers(line: str) -> None:
    for name, number in re.findall(r"(\w+) = (\d+)", line):
        assert getattr(recording, name) == int(number)
        assert re.search(rf"\b{name} = {number}\b", SOURCE), name
