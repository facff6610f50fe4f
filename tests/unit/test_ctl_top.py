# SPDX-License-Identifier: MIT
"""`procwatchctl top`: what is counted, who is first in what, and what that does not hold."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.ctl.main import main
from procwatchd.ctl.show.blocks import rate
from procwatchd.ctl.top.activity import BUCKETS, EDGES_USEC, Activity, Window
from procwatchd.ctl.top.groups import (
    BY_CPU,
    BY_LIVES,
    BY_MEMORY,
    BY_STARTS,
    NAMES_LIMIT,
    Group,
    Groups,
    step_of,
)
from tests.unit.ctlentries import START_USEC, entry, life, write
from tests.unit.test_ctl import ROOT, run

SECOND = 1_000_000
HOSTILE = "/x/\x1b[31mred\x07\u202e[bold]:smile:\udcff"


def found(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["top", *words, "--json"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    return json.loads(text)


def of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], *lines: Iterable[Any]) -> Any:
    return found(capsys, "--file", write(tmp_path, *lines))


def own(kind: str, at_usec: int = 0, **fields: object) -> dict[str, Any]:
    """An entry of the daemon's own."""
    made = entry(kind, 0, at_usec, **fields)
    del made["PROCWATCH_PID"], made["PROCWATCH_PROCESS_ID"]
    return made


def pick(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_who_is_first_in_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [life(n, 1, n, "/bin/a", CPU_USEC=10, MEMORY_PEAK=100) for n in range(5)]
    lines += [life(n, 1, n, "/bin/b", CPU_USEC=70, MEMORY_PEAK=50, EXIT_CODE=3) for n in range(10, 12)]
    lines += [life(20, 1, 20, "/bin/c", MEMORY_PEAK=9000)]
    top = of_file(tmp_path, capsys, *lines)
    assert (top["starts"], top["lives"], top["failed"], top["entries"]) == (8, 8, 2, 16)
    assert pick(top["most_started"], "executable", "starts") == [("/bin/a", 5), ("/bin/b", 2), ("/bin/c", 1)]
    assert pick(top["most_cpu"], "executable", "cpu_usec", "mean_cpu_usec") == [
        ("/bin/b", 140, 70),
        ("/bin/a", 50, 10),
    ]
    assert pick(top["most_memory"], "executable", "memory_peak", "mean_memory") == [
        ("/bin/c", 9000, 9000),
        ("/bin/a", 100, 100),
        ("/bin/b", 50, 50),
    ]
    assert top["failures"] == [{"executable": "/bin/b", "exit_code": 3, "count": 2}]
    assert pick(top["shortest"], "executable") == [("/bin/a",)]  # the others are too few to have a middle
    assert top["lifetimes"]["1-10ms"] == 8


def test_what_counts_as_a_start_and_as_a_life(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forked = entry("exit", 5, 10, EXE="/bin/sh", EXIT_CODE=0)
    thread = entry("exit", 6, 10, EXE="/bin/sh", EXIT_CODE=0, TID=7)
    twice = [entry("exec", 8, at, EXE="/bin/sh") for at in (1, 2)]
    others = [entry(kind, 8, 3, EXE="/bin/sh") for kind in ("fork", "uid", "comm", "ptrace")]
    top = of_file(tmp_path, capsys, [forked, thread, *twice, *others])
    assert pick(top["most_started"], "executable", "starts", "lives") == [("/bin/sh", 2, 1)]


def test_who_killed_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def killed(pid: int, **how: object) -> dict[str, Any]:
        return entry("exit", pid, pid, EXE="/bin/v", EXIT_SIGNAL="SIGKILL", **how)

    top = of_file(
        tmp_path,
        capsys,
        [killed(n, KILLER_PID=99, KILLER_EXE="/bin/kill", KILLER_COMM="kill") for n in (1, 2)],
        [killed(3, KILLER_PID=99, KILLER_COMM="kill"), killed(4, KILLER_PID=4), killed(5)],
        [killed(6, OOM_KILLED=1)],
    )
    killers = [row["killer"] for row in top["signals"]]
    assert killers[0] == "/bin/kill"
    assert sorted(killers[1:]) == ["?", "[kill]", "itself", "the kernel, out of memory"]
    assert (top["failed"], top["failures"]) == (6, [])


def test_a_users_unit_is_not_the_systems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = entry("exec", 1, 1, UNIT="ssh.service", USER="root")
    own_unit = entry("exec", 2, 2, UNIT="user@7.service", USER_UNIT="ssh.service", USER="eve")
    top = of_file(tmp_path, capsys, [system, own_unit, entry("exec", 3, 3)])
    assert {row["unit"] for row in top["units"]} == {"ssh.service", "ssh.service (eve)", "(no unit)"}
    assert {row["user"] for row in top["users"]} == {"root", "eve", "?"}


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        own("statistics", 1, DROPPED=100),
        own("loss", 2, LOST_WHERE="kernel", COUNT=7),
        own("loss", 3, LOST_WHERE="\x1b[31m", COUNT=1),
        own("summary", 4, COUNT=30, GROUP="exe=/usr/bin/cc"),
        own("blind", 5, SINCE_USEC=1),
        own("blind", 6, SINCE_USEC=1, UNTIL_USEC=2, COUNT=9),
        own("statistics", 7, DROPPED=142),
    ]
    file = write(tmp_path, lines, ["{"], [{"PROCWATCH_EVENT": "exec", "_SYSTEMD_UNIT": "evil.service"}])
    top = found(capsys, "--file", file)
    assert (top["lost"], top["summarised"], top["dropped"]) == ({"kernel": 7, "elsewhere": 1}, 30, 42)
    assert (top["blind"], top["missed"], top["passed_over"]) == (1, 9, 2)
    assert top["summaries"] == [{"what": "exe=/usr/bin/cc", "count": 30}]
    # A filter asks for events; what is missing of them is said all the same.
    assert main(["top", "--file", file, "exe=/bin/none"]) == 0
    out = capsys.readouterr().out
    assert "LOST in that time: 1 elsewhere, 7 kernel" in out
    assert "BLIND in that time: 1 time, with 9 forks that were not told" in out
    assert "30 events summarised, whether they match or not; dropped by rules at least 42, those from " in out
    assert "most summarised, matching or not" in out
    assert "2 lines or entries passed over" in out
    assert f"{file}:9: sent by another unit, in procwatchd's name" in out


def test_filters_choose_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, life(1, 9, 1, "/bin/a"), life(2, 9, 2, "/bin/b"), [entry("exec", 3, 3)])
    top = found(capsys, "--file", file, "exe=*/b")
    assert pick(top["most_started"], "executable") == [("/bin/b",)]
    assert main(["top", "--file", file, "nonsense"]) == 2


def test_rates_are_of_the_time_that_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [entry("exec", n, n * SECOND, EXE="/bin/a") for n in range(121)]
    top = of_file(tmp_path, capsys, lines)
    assert top["until_usec"] - top["since_usec"] == 120 * SECOND
    assert math.isclose(top["starts_per_second"], 121 / 120, abs_tol=1e-6)
    minute = top["busiest_minute"]
    assert (minute["count"], minute["since_usec"] % (60 * SECOND)) == (60, 0)


def test_without_entries_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = of_file(tmp_path, capsys, [])
    assert (top["starts"], top["since_usec"], top["busiest_minute"], top["most_started"]) == (
        0,
        None,
        None,
        [],
    )
    assert main(["top", "--file", write(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no entries" in out
    assert "0 programs started, 0 processes ended, 0 failed" in out


def test_live_without_entries_there_is_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "-f", "--json", "--file", write(tmp_path)]) == 0
    top = json.loads(capsys.readouterr().out)
    assert (top["since_usec"], top["until_usec"], top["starts"]) == (None, None, 0)


def test_lines_are_limited_and_paths_whole_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/" + "/".join(["deep"] * 28)
    file = write(tmp_path, *(life(n, 1, n, f"{path}/{n}") for n in range(10, 20)))
    assert main(["top", "--file", file, "-n", "2"]) == 0
    assert capsys.readouterr().out.count(path) == 2  # in what was started: there is nothing else to tell


def test_nothing_of_a_process_reaches_a_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_bytes = list(HOSTILE.encode("utf-8", "surrogateescape"))
    hostile: dict[str, Any] = dict.fromkeys(("EXE", "USER", "UNIT", "KILLER_EXE", "EXIT_SIGNAL"), as_bytes)
    made = entry("exit", 1, 1) | {f"PROCWATCH_{name}": value for name, value in hostile.items()}
    made |= {"_HOSTNAME": HOSTILE, "PROCWATCH_KILLER_PID": "7"}
    assert main(["top", "--file", write(tmp_path, [made])]) == 0
    out = capsys.readouterr().out
    assert "[bold]:smile:\\xff" in out
    assert [letter for letter in out if not (letter.isprintable() or letter == "\n")] == []


@given(
    st.lists(
        st.fixed_dictionaries(
            {"PROCWATCH_EVENT": st.sampled_from(["exec", "exit", "summary", "loss", "blind", "statistics"])},
            optional=dict.fromkeys(
                (
                    "__REALTIME_TIMESTAMP",
                    "_HOSTNAME",
                    "_BOOT_ID",
                    "PROCWATCH_EXE",
                    "PROCWATCH_EXIT_CODE",
                    "PROCWATCH_EXIT_SIGNAL",
                    "PROCWATCH_DURATION_USEC",
                    "PROCWATCH_CPU_USEC",
                    "PROCWATCH_MEMORY_PEAK",
                    "PROCWATCH_COUNT",
                    "PROCWATCH_DROPPED",
                    "PROCWATCH_LOST_WHERE",
                ),
                st.none()
                | st.booleans()
                | st.integers()
                | st.text()
                | st.integers(0, 10**20).map(str)
                | st.lists(st.integers(-1, 300))
                | st.lists(st.text()),
            ),
        ),
        max_size=8,
    )
)
def test_no_entry_is_too_odd(lines: list[dict[str, Any]]) -> None:
    shown = io.StringIO()
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text)
        patch.setattr(sys, "stdout", shown)
        assert main(["top", "--file", file.name, "-f"]) == 0
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert main(["top", "--file", "-"]) == 0
    assert [letter for letter in shown.getvalue() if not (letter.isprintable() or letter == "\n")] == []


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_a_median_is_right_to_a_sixteenth(lifetimes: list[int]) -> None:
    group = Group()
    for usec in lifetimes:
        group.lifetimes[step_of(usec)] += 1
    exact = sorted(lifetimes)[len(lifetimes) // 2]
    assert abs(group.median_usec - exact) <= exact / 16
    assert group.known_lifetimes == len(lifetimes)
    if len(lifetimes) % 2:
        assert exact == median(lifetimes)


def test_a_flood_of_names_hides_nobody_who_is_first_in_anything() -> None:
    groups: Groups[str] = Groups(limit=64)
    for n in range(5000):
        group = groups.of(f"flood {n}")
        group.starts += 1
        group.end(1, 1, has_failed=False)
        if n % 5 == 0:
            groups.of("often").starts += 1
        if n == 100:
            groups.of("busy").end(10**9, 5, has_failed=False)
            groups.of("big").end(5, 10**9, has_failed=True)
        assert len(groups) <= 64
    (often, many), (busy, _), (big, _) = (groups.most(rank, 1)[0] for rank in (BY_STARTS, BY_CPU, BY_MEMORY))
    assert (often, many.starts, busy, big) == ("often", 1000, "busy", "big")
    kept = [group for _name, group in groups.most(BY_LIVES, 64)]
    assert sum(group.lives for group in kept) + groups.forgotten > 5000


def test_the_cost_of_the_limit_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Activity.__init__, "__defaults__", (8, None))
    lines = [entry("exec", n, n, EXE=f"/tmp/{n}") for n in range(50)]
    file = write(tmp_path, lines)
    top = found(capsys, "--file", file, "-n", "50")
    assert top["forgotten"] + sum(row["starts"] for row in top["most_started"]) == 50
    assert main(["top", "--file", file]) == 0
    assert re.search(r"too many names: \d+ times", capsys.readouterr().out)


def test_lifetimes_are_told_by_their_edges() -> None:
    activity = Activity()
    for usec in (0, *(edge - 1 for edge in EDGES_USEC), *EDGES_USEC):
        activity.take(entry("exit", 1, 1, DURATION_USEC=usec))
    assert activity.lifetimes == [2, *[2] * (len(EDGES_USEC) - 1), 1]


def test_a_window_slides() -> None:
    window = Window(BUCKETS * SECOND)
    window.take(entry("exec", 1, 0, EXE="/bin/old"), START_USEC)
    window.take(entry("exec", 2, 30 * SECOND, EXE="/bin/new"), START_USEC + 30 * SECOND)
    window.take(entry("exec", 3, -90 * SECOND, EXE="/bin/before"), START_USEC + 30 * SECOND)
    window.take(entry("exec", 4, 900 * SECOND, EXE="/bin/fast-clock"), START_USEC + 30 * SECOND)

    def names(at_seconds: int) -> set[str]:
        most = window.sum(START_USEC + at_seconds * SECOND).executables.most(BY_STARTS, 9)
        return {name for name, _group in most}

    assert names(30) == {"/bin/old", "/bin/new", "/bin/fast-clock"}
    assert names(70) == {"/bin/new", "/bin/fast-clock"}
    assert names(2000) == set()


def test_parts_add_up_to_the_whole() -> None:
    lines = [
        *(one for n in range(40) for one in life(n, 1, n * SECOND, f"/bin/{n % 7}", CPU_USEC=n, EXIT_CODE=n % 3)),
        own("statistics", 0, DROPPED=5),
        own("statistics", 39 * SECOND, DROPPED=11),
        own("summary", 39 * SECOND, COUNT=4, RULE="noise"),
    ]  # fmt: skip
    whole, window = Activity(), Window(BUCKETS * SECOND)
    now = START_USEC + 40 * SECOND
    for one in lines:
        whole.take(one)
        window.take(one, now)
    summed = window.sum(now)
    assert summed.lifetimes == whole.lifetimes
    assert (summed.absent.dropped, summed.absent.summarised) == (6, 4)
    for name in ("executables", "units", "failures", "summaries", "minutes"):
        rows = (getattr(one, name).most(BY_LIVES, 99) for one in (whole, summed))
        first, second = (
            {key: (group.starts, group.lives, group.cpu_usec) for key, group in of} for of in rows
        )
        assert first == second
        assert first


def test_live_from_a_file_shows_its_last_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, life(1, 9, 0, "/bin/old"), life(2, 9, 3600 * SECOND, "/bin/new"))
    assert main(["top", "-f", "--file", file, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert pick(last["most_started"], "executable") == [("/bin/new",)]
    assert main(["top", "-f", "--file", file]) == 0
    assert "the last 10min 0s, live" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--until", "now"], ["--since", "+1h"]])
def test_what_goes_on_neither_ends_nor_begins_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["top", "-f", "--file", write(tmp_path), *words]) == 2
    assert "what goes on" in capsys.readouterr().err


def test_on_a_terminal_long_paths_show_their_end(tmp_path: Path) -> None:
    path = f"/opt/{'x' * 90}/worker"
    shown, status = run("top", "--no-pager", "--file", write(tmp_path, life(1, 9, 1, path)))
    assert status == 0
    assert re.search(r"…x+/worker", shown)
    assert path not in shown


def test_live_on_a_terminal_ends_as_it_began(tmp_path: Path) -> None:
    shown, status = run("top", "-f", "--file", write(tmp_path, life(1, 9, 1)))
    assert status == 0
    assert shown.startswith("\x1b[?1049h")  # a screen of its own
    before, _, after = shown.partition(
        "\x1b[?25h\x1b[?1049l"
    )  # the cursor is back, and what was there before
    assert "/usr/bin/cc1" in before
    assert "/usr/bin/cc1" in after


class FakeJournal:
    """A journal of these entries, that finds by its index alone."""

    entries: list[dict[str, Any]]

    def __init__(
        self, matches: Mapping[str, Sequence[str]], _directory: str | None = None, *, is_merged: bool = False
    ) -> None:
        assert not is_merged
        self._matches = matches

    def between(self, since_usec: int | None, until_usec: int | None) -> Iterator[dict[str, Any]]:
        for one in self.entries:
            when = int(one["__REALTIME_TIMESTAMP"])
            is_found = all(one.get(f"PROCWATCH_{name}") in values for name, values in self._matches.items())
            if (since_usec or 0) <= when <= (until_usec or when) and is_found:
                yield one

    def follow(self, since_usec: int, after: str | None = None) -> Iterator[dict[str, Any] | None]:
        assert after is None
        yield from self.between(since_usec, None)
        yield None


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The journal's entries."""
    monkeypatch.setattr(FakeJournal, "entries", [], raising=False)
    monkeypatch.setattr("procwatchd.ctl.past.entries.Journal", FakeJournal)
    return FakeJournal.entries


def aged(seconds: float, made: dict[str, Any]) -> dict[str, Any]:
    """The same, of so long ago."""
    return made | {"__REALTIME_TIMESTAMP": str(int((time.time() - seconds) * SECOND))}


@pytest.mark.parametrize("words", [[], ["event!=fork"], ["event=exec", "event=loss"], ["exe=/bin/a"]])
def test_what_is_missing_is_counted_once(
    journal: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    journal += [
        aged(90, own("loss", LOST_WHERE="kernel", COUNT=7)),
        aged(80, own("summary", COUNT=30, GROUP="noise")),
        aged(70, entry("exec", 1, 1, EXE="/bin/a")),
    ]
    top = found(capsys, *words)
    assert (top["starts"], top["lost"], top["summarised"]) == (1, {"kernel": 7}, 30)
    assert top["summaries"] == [{"what": "noise", "count": 30}]


def test_live_nothing_is_given_to_programs_before_the_window_is_read(
    journal: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procwatchd.ctl.top.command.FIRST_SECONDS", 0)
    monkeypatch.setattr("procwatchd.ctl.top.command.REFRESH_SECONDS", 0)
    journal += [aged(60 - n, entry("exec", n + 1, 1, EXE="/bin/a")) for n in range(9)]
    assert main(["top", "--json", "-f"]) == 0
    starts = [json.loads(state)["starts"] for state in re.split(r"\n(?={)", capsys.readouterr().out)]
    assert set(starts) == {9}
    assert main(["top", "-f"]) == 0
    first, *_, last = re.findall(r"live(, still being read)?", capsys.readouterr().out)
    assert (first, last) == (", still being read", "")


def test_a_time_before_is_not_called_the_last_hour(
    journal: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    journal.append(aged(7200, entry("exec", 1, 1, EXE="/bin/a")))
    for words, is_last in ([], True), (["--until", "-90min"], False):
        assert main(["top", *words]) == 0
        assert ("the last hour" in capsys.readouterr().out) is is_last


def test_a_filter_does_not_shorten_the_time(
    journal: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    journal += [
        aged(3000, entry("exec", 1, 1, EXE="/bin/a")),
        aged(60, entry("exec", 2, 1, EXE="/bin/curl")),
    ]
    for words in (["exe=/bin/curl"], []):
        top = found(capsys, *words)
        assert round((top["until_usec"] - top["since_usec"]) / SECOND) == 3600
    del journal[0]
    top = found(capsys)
    assert round((top["until_usec"] - top["since_usec"]) / SECOND) == 60


def test_of_a_file_the_time_is_that_of_all_its_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [entry("exec", n, n * 60 * SECOND, EXE="/bin/a") for n in range(61)]
    lines.insert(30, entry("exec", 99, 1800 * SECOND, EXE="/bin/curl"))
    top = found(capsys, "--file", write(tmp_path, lines), "exe=/bin/curl")
    assert (top["until_usec"] - top["since_usec"], top["starts"]) == (3600 * SECOND, 1)


@pytest.mark.parametrize("words", [[], ["exe=/bin/new"]])
def test_live_the_time_is_as_long_as_there_are_entries(
    journal: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    journal.append(aged(60, entry("exec", 1, 1, EXE="/bin/old")))
    journal.append(aged(1, entry("exec", 1, 1, EXE="/bin/new")))
    assert main(["top", "-f", "--json", *words]) == 0
    top = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert round((top["until_usec"] - top["since_usec"]) / SECOND) == 60
    journal.insert(0, aged(500, entry("exec", 1, 1, EXE="/bin/old")))
    assert main(["top", "-f", "--json", *words]) == 0
    top = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert round((top["until_usec"] - top["since_usec"]) / SECOND) == 600


def stopped(at: int, *, machine: str = "m") -> dict[str, Any]:
    return own("stop", at * SECOND) | {"_MACHINE_ID": machine}


def started(at: int, since: int | None = None, *, boot: str = "b", machine: str = "m") -> dict[str, Any]:
    told = {} if since is None else {"SINCE_USEC": since * SECOND, "UNTIL_USEC": at * SECOND}
    return own("start", at * SECOND, **told) | {"_MACHINE_ID": machine, "_BOOT_ID": boot}


@pytest.mark.parametrize(
    ("of", "seconds"),
    [
        ([stopped(1010), started(4000, 1010)], 2990),
        ([started(4000, 1010)], 2990),  # its stop is not of this time
        ([started(1300, 600)], 300),  # and what was before is not, either
        ([stopped(1010), started(4000)], 0),  # the kernel went on to tell
        ([stopped(1010), started(4000, boot="c")], 0),  # the machine was off
        ([stopped(4000)], 600),
        ([stopped(4000), started(4010, 4000, machine="n")], 610),
        ([started(1020, 1010), stopped(1030), started(1050, 1030)], 30),
    ],
)
def test_how_long_nobody_listened_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of: list[dict[str, Any]], seconds: int
) -> None:
    first, last = (entry("exec", 1, at * SECOND, EXE="/bin/a") for at in (1000, 4600))
    file = write(tmp_path, [first, *of, last])
    for words in ([], ["exe=/bin/a"]):
        assert found(capsys, "--file", file, *words)["not_running_usec"] == seconds * SECOND
    assert main(["top", "--file", file]) == 0
    assert ("NOT RUNNING for " in capsys.readouterr().out) == bool(seconds)


def test_live_a_daemon_that_was_stopped_before_is_stopped_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [stopped(1000), *(entry("exec", 1, at * SECOND) for at in range(0, 5000, 100))]
    assert main(["top", "-f", "--json", "--file", write(tmp_path, lines)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["not_running_usec"] == 600 * SECOND


def test_minutes_are_no_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [entry("exec", 1, n * 60 * SECOND, EXE="/bin/a") for n in range(NAMES_LIMIT + 9)]
    assert of_file(tmp_path, capsys, lines)["forgotten"] == 0


def test_what_is_not_known_is_not_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = life(1, 9, 1, "/bin/a", CPU_USEC=0, MEMORY_PEAK=7, UNIT="a.service")[1:]
    unknown = [
        entry("exit", n, n, EXE="/bin/b", UNIT="b.service", **({"DURATION_USEC": n} if n > 12 else {}))
        for n in range(10, 20)
    ]
    file = write(tmp_path, known, unknown)
    top = found(capsys, "--file", file, "exe=/bin/a")
    names = ("unit", "known_cpu", "cpu_usec", "mean_cpu_usec", "known_memory", "memory_peak", "mean_memory")
    assert pick(top["units"], *names) == [("a.service", 1, 0, 0, 1, 7, 7)]
    top = found(capsys, "--file", file, "exe=/bin/b")
    assert pick(top["units"], *names) == [("b.service", 0, None, None, 0, None, None)]
    assert pick(top["shortest"], "lives", "known_lifetimes") == [(10, 7)]
    assert "known_lifetimes" not in top["units"][0]  # they are kept of executables alone
    assert (top["failed"], top["unknown_ends"], top["lives"]) == (0, 10, 10)
    assert main(["top", "--file", file, "exe=/bin/b"]) == 0
    out = capsys.readouterr().out
    assert "0 failed, 10 ended nobody knows how" in out
    assert "0us" not in out
    assert re.search(r"known +failed +executable *\n *\S+ +7 +0 +/bin/b\b", out)
    assert main(["top", "--file", file, "exe=/bin/a"]) == 0
    assert "nobody knows how" not in capsys.readouterr().out


def test_live_what_comes_slowly_through_a_pipe_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "procwatchd.ctl.main", "top", "-f", "--json", "--file", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for starts in (1, 2):
            # Half of the next line is nothing yet.
            line = json.dumps(entry("exec", 5, 1)).encode()
            half = len(line) // 2
            os.write(process.stdin.fileno(), line[half if starts > 1 else 0 :] + b"\n" + line[:half])
            shown: dict[str, Any] = {}
            while shown.get("starts") != starts:
                shown = json.loads(process.stdout.readline())
        process.stdin.close()
        assert json.loads(process.stdout.readlines()[-1])["passed_over"] == 1  # the half line
    assert process.returncode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "days", "told"),
    [(1, 1, "1.0/d"), (1, 100, "<0.1/d"), (24, 1, "1.0/h"), (5, 10, "0.5/d"), (0, 1, ""), (1, 0, "")],
)
def test_what_is_rare_has_a_rate_as_well(count: int, days: int, told: str) -> None:
    assert rate(count, days * 86_400 * SECOND) == told
