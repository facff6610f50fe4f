# SPDX-License-Identifier: MIT
"""JSON lines are what `journalctl -o json` would print, one line an entry, whatever the values are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.journal import jsonlines
from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.jsonlines import JsonWriter
from procwatchd.journal.writer import Writer

BOOT_ID = "0123456789abcdef" * 2
CONSTANT = {"__REALTIME_TIMESTAMP": "1763694062000001", "_BOOT_ID": BOOT_ID, "_HOSTNAME": 'h"öst'}

Write = Callable[[dict[str, FieldValue]], bytes]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes one entry; gives what came out."""
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)

    def write_one(fields: dict[str, FieldValue]) -> bytes:
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        writer = JsonWriter(fd, boot_id=BOOT_ID, hostname='h"öst')
        writer.write(Entry(fields, 1763694062000001, 1))
        writer.close()
        assert (writer.written_events, writer.held_events, writer.unwritten_events) == (1, 0, 0)
        return os.pread(fd, 1 << 20, 0)

    yield write_one
    os.close(fd)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        (b"bytes", "bytes"),
        ("grün 日本 𝄞".encode(), "grün 日本 𝄞"),
        ("grün 𝄞", "grün 𝄞"),
        (b"a\xffb", [97, 255, 98]),
        ('"\\\n\0\x7f\u009b\u2028', '"\\\n\0\x7f\u009b\u2028'),
        ('":[', '":['),
        ("\udcff", "?"),
        ("\ud834\udd1e", "??"),
        (["a", b"b"], ["a", "b"]),
        (["a", b"\xff"], ["a", [255]]),
        (["a"], "a"),
        ([b"\xff"], [255]),
        (["\ud800", ""], ["?", ""]),
    ],
)
def test_a_value_is_what_journalctl_would_print(write: Write, value: FieldValue, expected: object) -> None:
    line = write({"MESSAGE": "exec", "A": value, "Z": b"z"})
    assert json.loads(line) == {**CONSTANT, "MESSAGE": "exec", "A": expected, "Z": "z"}


@pytest.mark.parametrize("fields", [{}, {"A": []}])
def test_an_entry_without_values_is_still_an_object(write: Write, fields: dict[str, FieldValue]) -> None:
    assert json.loads(write(fields)) == CONSTANT


def test_the_order_of_fields_is_kept(write: Write) -> None:
    pairs = json.loads(write({"Z": "1", "A": "2", "M": '"'}), object_pairs_hook=list)
    assert [name for name, _ in pairs[3:]] == ["Z", "A", "M"]


def _expected(value: str | bytes) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    try:
        return value.decode()
    except UnicodeDecodeError:
        return list(value)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,5}", fullmatch=True),
        st.binary() | st.text(st.characters(codec=None)) | st.lists(st.binary() | st.text(), min_size=2),
    )
)
def test_any_values_make_one_line_of_ascii(fields: dict[str, FieldValue]) -> None:
    line = f'{{"A":"{jsonlines.encode_fields(fields)}'
    assert line.isascii()
    assert line.index("\n") == len(line) - 1
    assert line[:-1].isprintable()
    values = {
        name: [*map(_expected, v)] if isinstance(v, list) else _expected(v) for name, v in fields.items()
    }
    assert json.loads(line, object_pairs_hook=list)[1:] == list(values.items())


def test_lines_come_in_order(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    writer: Writer = JsonWriter(fd, boot_id=BOOT_ID, hostname="host")
    for number in range(5000):
        writer.write(Entry({"MESSAGE": str(number)}, number, 1))
    assert writer.written_events + writer.held_events == 5000
    assert writer.written_events > 0, "nothing was written before it was asked for"
    writer.flush()
    assert writer.written_events == 5000
    lines = (tmp_path / "out").read_text().splitlines()
    assert [json.loads(line)["MESSAGE"] for line in lines] == [str(number) for number in range(5000)]
    writer.close()
    os.close(fd)
