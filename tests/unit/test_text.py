# SPDX-License-Identifier: MIT
"""Text is one clean line an entry, and neither a slow reader nor one that went away stops or breaks anything."""

from __future__ import annotations

import os
import pty
import re
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.journal import fdbuffer
from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.fdbuffer import FdBuffer
from procwatchd.journal.text import TextWriter
from procwatchd.journal.writer import Loss, Writer

PATIENCE_SECONDS = 10.0
TIME_USEC = 1763694062_999_999  # 2025-11-21 03:01:02 UTC


class Pipe:
    """A pipe with its reading end; both are closed at the end of the test."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self._open):
            os.close(fd)
            self._open.discard(fd)

    def read(self) -> bytes:
        """What is in the pipe now."""
        result = b""
        while select.select([self.reader], [], [], 0)[0] and (data := os.read(self.reader, 1 << 20)):
            result += data
        return result


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(fields: dict[str, FieldValue], *, colour: bool = False) -> str:
    """What the writer makes of one entry, without time and newline."""
    reader, fd = os.pipe()
    writer = TextWriter(fd, colour=colour)
    writer.write(Entry(fields, TIME_USEC))
    writer.flush()
    line = os.read(reader, 1 << 16).decode()
    os.close(reader)
    os.close(fd)
    assert line.endswith("\n")
    stamp = "\x1b[2mNov 21 03:01:02\x1b[0m " if colour else "Nov 21 03:01:02 "
    assert line.startswith(stamp)
    return line.removeprefix(stamp)[:-1]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("exec ls -l by root", "exec ls -l by root"),
        ("exec 'grün'", "exec 'grün'"),
        (b"bytes \xff", "bytes \\xff"),
        ("a\nb\x1b[2J\u202e\udcff", "a\\x0ab\\x1b[2J\\xe2\\x80\\xae\\xff"),
        (["one", b"two"], "one two"),
        ("", ""),
    ],
)
def test_an_entry_is_one_clean_line(message: FieldValue, text: str) -> None:
    assert shown({"MESSAGE": message, "PRIORITY": "3"}) == text


def test_an_entry_without_a_message_is_a_line_too() -> None:
    assert shown({"PRIORITY": "6"}) == ""


def test_the_time_follows_the_entry(pipe: Pipe) -> None:
    writer = TextWriter(pipe.writer)
    for usec in (TIME_USEC, TIME_USEC + 1, TIME_USEC):
        writer.write(Entry({"MESSAGE": "x"}, usec))
    writer.flush()
    assert pipe.read() == b"Nov 21 03:01:02 x\nNov 21 03:01:03 x\nNov 21 03:01:02 x\n"


@pytest.mark.parametrize(
    ("fields", "style"),
    [
        ({"PROCWATCH_EVENT": "exec"}, "32"),
        ({"PROCWATCH_EVENT": b"exec"}, "32"),
        ({"PROCWATCH_EVENT": "exit"}, "2"),
        ({"PROCWATCH_EVENT": "exit", "PROCWATCH_EXIT_CODE": "0"}, "2"),
        ({"PROCWATCH_EVENT": "exit", "PROCWATCH_EXIT_CODE": "1"}, "31"),
        ({"PROCWATCH_EVENT": "exit", "PROCWATCH_EXIT_SIGNAL": "SIGSEGV"}, "31"),
        ({"PROCWATCH_EVENT": "uid"}, "33"),
        ({"PROCWATCH_EVENT": "gid"}, "33"),
        ({"PROCWATCH_EVENT": "ptrace"}, "33"),
        ({"PROCWATCH_EVENT": "loss"}, "1;31"),
        ({"PROCWATCH_EVENT": "blind"}, "1;31"),
    ],
)
def test_the_first_word_has_the_colour_of_its_kind(fields: dict[str, FieldValue], style: str) -> None:
    assert shown({"MESSAGE": "kind and more", **fields}, colour=True) == f"\x1b[{style}mkind\x1b[0m and more"
    assert shown({"MESSAGE": "kind and more", **fields}) == "kind and more"


@pytest.mark.parametrize(("priority", "style"), [("0", "1;31"), ("3", "1;31"), ("4", "33")])
def test_severe_entries_stand_out(priority: str, style: str) -> None:
    fields: dict[str, FieldValue] = {"MESSAGE": "exec and more", "PRIORITY": priority}
    assert shown(fields, colour=True) == f"\x1b[{style}mexec\x1b[0m \x1b[{style}mand more\x1b[0m"
    fields["PROCWATCH_EVENT"] = "exec"
    assert shown(fields, colour=True) == f"\x1b[32mexec\x1b[0m \x1b[{style}mand more\x1b[0m"


def test_a_message_cannot_bring_colours_of_its_own() -> None:
    text = shown({"MESSAGE": "\x1b[31mevil\x1b[0m \x9b31m", "PRIORITY": "4"}, colour=True)
    assert re.findall(r"\x1b\[[0-9;]*m", text) == ["\x1b[33m", "\x1b[0m", "\x1b[33m", "\x1b[0m"]
    assert "\x9b" not in text


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main, terminal = pty.openpty()
    writer = TextWriter(terminal)
    writer.write(Entry({"MESSAGE": "x"}, TIME_USEC))
    writer.flush()
    assert (b"\x1b" in os.read(main, 4096)) == colour
    os.close(main)
    os.close(terminal)


def test_there_are_no_colours_in_a_pipe(pipe: Pipe) -> None:
    writer: Writer = TextWriter(pipe.writer)
    writer.write(Entry({"MESSAGE": "x", "PRIORITY": "0"}, TIME_USEC))
    writer.close()
    assert pipe.read() == b"Nov 21 03:01:02 x\n"


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % number + b"." * 93 + b"\n" for number in range(count)]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_does_not_read_holds_nothing_up(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.writer, blocking)
    buffer = FdBuffer(pipe.writer)
    lines = numbered(5000)
    for line in lines:
        buffer.add(line, 1, 0)
    buffer.flush()
    assert buffer.written_events < 5000
    assert buffer.written_events + buffer.held_events == 5000
    assert buffer.wait(0.01) is False
    received = bytearray()

    def read() -> None:
        while len(received) < 500_000:
            received.extend(os.read(pipe.reader, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert buffer.wait(PATIENCE_SECONDS) is True
    reader.join(PATIENCE_SECONDS)
    assert received == b"".join(lines)
    assert (buffer.written_events, buffer.held_events, buffer.lost.events) == (5000, 0, 0)


def test_what_does_not_fit_the_hold_is_lost_and_counted_exactly(pipe: Pipe) -> None:
    buffer = FdBuffer(pipe.writer, hold_bytes=fdbuffer.BLOCK_BYTES)
    while not buffer.lost.entries:
        buffer.add(b"x" * 100, 2, 5)
    buffer.add(b"x" * 1000, 3, 9)
    assert buffer.take_loss() == Loss(entries=2, events=5, since_usec=5, until_usec=9)
    assert buffer.take_loss() is None
    pipe.read()
    buffer.flush()
    buffer.add(b"x" * 100, 2, 5)
    assert buffer.take_loss() is None


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_went_away_costs_only_what_it_did_not_get(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.writer, blocking)
    buffer = FdBuffer(pipe.writer)
    for line in numbered(2000):
        buffer.add(line, 1, 7)
    buffer.flush()
    complete = len(pipe.read()) // 100
    pipe.close(pipe.reader)
    buffer.flush()
    assert buffer.broken is True
    assert (buffer.written_events, buffer.held_events, buffer.lost.events) == (complete, 0, 2000 - complete)
    buffer.add(b"more\n", 1, 8)
    assert buffer.take_loss() == Loss(2001 - complete, 2001 - complete, 7, 8)
    assert buffer.wait(1) is True


def test_the_writer_says_that_its_reader_is_gone(pipe: Pipe) -> None:
    writer = TextWriter(pipe.writer)
    pipe.close(pipe.reader)
    writer.write(Entry({"MESSAGE": "x"}, TIME_USEC, 3))
    assert (writer.broken, writer.held_events) == (False, 3)
    writer.flush()
    assert (writer.broken, writer.held_events, writer.unwritten_events) == (True, 0, 3)
    assert writer.take_loss() == Loss(1, 3, TIME_USEC, TIME_USEC)
    writer.close()


def test_a_terminal_that_hung_up_is_a_reader_that_went_away() -> None:
    main, terminal = pty.openpty()
    buffer = FdBuffer(terminal)
    os.close(main)
    buffer.add(b"x\n", 1, 0)
    buffer.flush()
    assert (buffer.broken, buffer.lost.events) == (True, 1)
    os.close(terminal)


def test_a_full_disk_may_have_room_again(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    buffer = FdBuffer(fd)
    buffer.add(b"x\n", 1, 0)
    buffer.flush()
    assert (buffer.broken, buffer.held_events) == (False, 1)
    with (tmp_path / "out").open("wb") as file:
        os.dup2(file.fileno(), fd)
    buffer.flush()
    assert (tmp_path / "out").read_bytes() == b"x\n"
    assert (buffer.written_events, buffer.held_events) == (1, 0)
    os.close(fd)


def test_what_is_held_at_close_is_lost_and_counted(pipe: Pipe) -> None:
    writer = TextWriter(pipe.writer)
    for number in range(5000):
        writer.write(Entry({"MESSAGE": "x" * 100}, number, 1))
    writer.close()
    assert writer.held_events == 0
    assert writer.unwritten_events > 0
    assert writer.written_events + writer.unwritten_events == 5000
