# SPDX-License-Identifier: MIT
"""What is known goes from one worker to the next as it is, or not at all."""

from __future__ import annotations

import io
import os
import pickle

import pytest

from procwatchd import state
from procwatchd.process.ends import Ends
from procwatchd.process.kills import Kills
from procwatchd.process.procfs import Reader, Wants
from procwatchd.process.recorded import Recorded
from procwatchd.process.table import Table
from procwatchd.state import pack, unpack
from tests.unit.test_table import StillClock, add, at, reading, table

__all__ = ["table"]


def parts_of(table: Table) -> dict[str, object]:
    ends = Ends(table)
    recorded = Recorded(Reader(Wants()))
    parts = (table, ends, ends.records, ends.records.others, Kills(table), recorded)
    return {type(part).__name__: part for part in parts}


RECEIVED = 7


def packed(table: Table) -> bytes:
    file = io.BytesIO()
    pack(file, parts_of(table), table.all(), table._users, RECEIVED)
    return file.getvalue()


def moved(table: Table) -> Table:
    """Another table, of what this one had."""
    other = Table(StillClock(), table._users)
    assert unpack(packed(table), parts_of(other), table._users, RECEIVED)
    return other


def test_who_lives_and_whose_child_it_is(table: Table) -> None:
    add(table, 10)
    parent = table.exec(10, reading(start=100, argv=b"cron\0-f\0", comm=b"cron"), at(100))
    add(table, 11, parent=10, tick=200)
    table.remove(parent)
    table.thread_forked(11, 12)
    child = moved(table).get(11)
    assert child is not None
    assert child.parent is not None
    assert (child.process_id, child.threads, child.inherited) == ("11-200", {11, 12}, True)
    assert (child.parent.comm, child.parent.image.argv) == (b"cron", b"cron\0-f\0")
    # What they share they still share.
    assert child.image is child.parent.image
    assert child.creds is not None
    assert child.creds.users is table._users


def test_inherited_tags_go_on(table: Table) -> None:
    table.tag(add(table, 10), ("backup",))
    add(table, 11, parent=10, tick=200)
    assert [getattr(moved(table).get(pid), "tags", None) for pid in (10, 11)] == [("backup",)] * 2


def test_lives_go_on_to_be_numbered(table: Table) -> None:
    add(table, 10)
    assert moved(table).fork(1, 10, at(100)).process_id == "10-100.2"


def test_long_arguments_go_on_to_be_counted(table: Table) -> None:
    table.exec(10, reading(start=100, argv=b"x" * 20_000), at(100))
    other = moved(table)
    assert other._long_argv.held_bytes == 20_000
    process = other.get(10)
    assert process is not None
    other.remove(process)
    del process
    assert other._long_argv.held_bytes == 0


def test_a_long_line_of_parents_is_no_obstacle(table: Table) -> None:
    for pid in range(2, 5000):
        add(table, pid, parent=pid - 1)
    other = moved(table)
    assert len(other) == 4998
    last = other.get(4999)
    assert last is not None
    assert [process.pid for process in last.ancestors()][:2] == [4998, 4997]


def test_of_another_layout_nothing_is_taken(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    add(table, 10)
    data = packed(table)
    other = Table(StillClock(), table._users)
    monkeypatch.setattr(Kills, "KEPT", (*Kills.KEPT, "forgotten"))
    assert not unpack(data, parts_of(other), table._users, RECEIVED)
    monkeypatch.undo()
    monkeypatch.setattr(state, "_CLASSES", state._CLASSES[1:])
    assert not unpack(data, parts_of(other), table._users, RECEIVED)
    monkeypatch.undo()
    monkeypatch.setattr(state, "_VERSION", 0)
    assert not unpack(data, parts_of(other), table._users, RECEIVED)
    assert len(other) == 0


def test_what_others_have_gone_on_from_is_not_taken_again(table: Table) -> None:
    add(table, 10)
    other = Table(StillClock(), table._users)
    assert not unpack(packed(table), parts_of(other), table._users, RECEIVED + 1)
    assert len(other) == 0


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("data", [b"", b"nonsense", pickle.dumps(Evil()), pickle.dumps(("", [], {}))])
def test_nothing_is_made_of_anything_else(table: Table, data: bytes) -> None:
    assert not unpack(data, parts_of(table), table._users, RECEIVED)
