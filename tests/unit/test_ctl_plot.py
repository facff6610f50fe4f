# SPDX-License-Identifier: MIT
"""`procwatchctl plot`: where all has its place, and that the file is sound whatever processes call themselves."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd.ctl.lives.forest import Forest, Node
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.main import main
from procwatchd.ctl.plot import svg
from procwatchd.ctl.plot.clockticks import TICKS, clock_ticks, span_ticks
from procwatchd.ctl.plot.command import Kept
from procwatchd.ctl.plot.layout import BARS_LIMIT, LANES_LIMIT, lay_out
from procwatchd.ctl.plot.palettes import PALETTES
from procwatchd.ctl.plot.rows import ROWS_LIMIT
from procwatchd.ctl.plot.timeline import WIDTH, Timeline, Window
from procwatchd.ctl.show.figures import date
from tests.unit.ctlentries import BOOT, START_USEC, entry, life, write

SVG = "{http://www.w3.org/2000/svg}"
# All there is in a picture: nothing that runs, links or loads but the one script and the one style of our own.
ELEMENTS = {"svg", "title", "style", "script", "rect", "text", "g", "path"}
WORD = st.text(max_size=12)
PIDS = st.integers(min_value=1, max_value=6)


def draw(capsys: pytest.CaptureFixture[str], file: str, *words: str) -> ET.Element:
    """The picture on standard output."""
    capsys.readouterr()
    assert main(["plot", "--file", file, *words]) == 0
    return parsed(capsys.readouterr().out)


def parsed(text: str) -> ET.Element:
    assert text.isascii()
    root = ET.fromstring(text)
    names = Counter(element.tag.removeprefix(SVG) for element in root.iter())
    assert names.keys() <= ELEMENTS
    assert (names["script"], names["style"]) == (1, 1)
    assert not any(name.startswith("on") or "href" in name for one in root.iter() for name in one.attrib)
    assert "&" not in (root.findtext(f"{SVG}script") or "")
    return root


def titles(root: ET.Element) -> list[str]:
    """What is shown under the pointer on each bar."""
    return [
        bar.findtext(f"{SVG}title") or "" for bar in root.iter(f"{SVG}path") if "bar" in bar.get("class", "")
    ]


def row_titles(root: ET.Element) -> list[str]:
    """What is shown under the pointer on each row."""
    stripes = (one for one in root.iter(f"{SVG}rect") if one.get("class") == "stripe")
    return [stripe.findtext(f"{SVG}title") or "" for stripe in stripes]


def shades(root: ET.Element) -> list[tuple[float, float]]:
    """From where to where something is missing, of WIDTH."""
    gaps = (one for one in root.iter(f"{SVG}rect") if one.get("class") == "gap")
    return [(float(gap.attrib["x"]), float(gap.attrib["x"]) + float(gap.attrib["width"])) for gap in gaps]


def marks(root: ET.Element) -> list[str]:
    """What is said to be missing where, under the pointer on the axis."""
    heads = (one for one in root.iter(f"{SVG}g") if one.get("id") == "head")
    found = (one for head in heads for one in head.iter(f"{SVG}rect") if one.get("class") == "mark")
    return [mark.findtext(f"{SVG}title") or "" for mark in found]


def words(root: ET.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def kept_by(keep: Callable[[Life], None]) -> Callable[[Life], bool]:
    def is_wanted(one: Life) -> bool:
        keep(one)
        return True

    return is_wanted


def lay(entries: Iterable[dict[str, Any]], window: Window | None = None) -> Timeline:
    """Of entries in any order, the layout."""
    lives: list[Life] = []
    forest = Forest(is_wanted=kept_by(lives.append))
    times = [START_USEC]
    for one in sorted(entries, key=lambda one: int(one["__REALTIME_TIMESTAMP"])):
        forest.take(one)
        times.append(int(one["__REALTIME_TIMESTAMP"]))
    boots, drawn = forest.finish(), window or Window(START_USEC, max(times) + 1_000)
    return lay_out(boots, lives, [], drawn, PALETTES["status"])


def test_each_process_has_a_bar_that_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed = life(
        6, 5, 2_000, EXIT_SIGNAL="SIGKILL", EXIT_CODE=None, KILLER_PID=9, KILLER_COMM="kill", USER="eve"
    )
    file = write(
        tmp_path, life(5, 1, 1_000, "/bin/sh", DURATION_USEC=9_000, CPU_USEC=500, MEMORY_PEAK=2048), killed
    )
    first, second = titles(draw(capsys, file))
    assert first.splitlines()[:2] == ["sh[5]: code 0", "/bin/sh 5"]
    assert "after 9ms" in first
    assert "CPU 500us, memory, at most 2.0K" in first
    assert second.startswith("cc1[6]: SIGKILL from kill[9]\n")
    assert "user eve" in second
    assert second.endswith("started by sh[5]")


def test_many_of_a_kind_are_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lives = (life(100 + n, 5, 10_000 * n, EXIT_CODE=int(n == 3)) for n in range(60))
    root = draw(capsys, write(tmp_path, itertools.chain.from_iterable(lives)))
    assert len(titles(root)) == 60
    assert {"cc1", "\xd7 60", "1 failed", "60 processes, 1 failed, 0 still living"} <= set(words(root))


def test_the_same_is_drawn_twice_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path, itertools.chain.from_iterable(life(100 + n, 5, n, f"/b/{n % 7}") for n in range(90))
    )
    one, other = (ET.tostring(draw(capsys, file, "--colour", "unit")) for _ in range(2))
    assert one == other


def test_what_was_before_and_goes_on_is_open(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = life(5, 1, 10_000_000, DURATION_USEC=5_000_000)
    goes_on = [entry("fork", 6, 14_000_000, COMM="on"), entry("exec", 6, 14_000_001, COMM="on")]
    within = life(7, 1, 15_000_000, "/bin/in", DURATION_USEC=1_000_000)
    known = lay([*before, *goes_on, *within], Window(START_USEC + 13_000_000, START_USEC + 17_000_000))
    open_at = {bar.life.pid: (bar.is_open_left, bar.is_open_right) for row in known.rows for bar in row.bars}
    assert open_at == {5: (True, False), 6: (False, True), 7: (False, False)}
    file = write(tmp_path, before, goes_on, within)
    assert len(titles(draw(capsys, file))) == 3


def test_what_did_not_live_then_is_not_drawn() -> None:
    entries = [one for n in range(4) for one in life(10 + n, 1, 1_000_000 * n, f"/bin/{n}")]
    drawn = lay(entries, Window(START_USEC + 900_000, START_USEC + 2_100_000))
    assert [bar.life.pid for row in drawn.rows for bar in row.bars] == [11, 12]


@pytest.mark.parametrize(
    ("colour", "told"),
    [
        ("status", ["living \xd7 1", "ended with code 0 \xd7 9", "failed: another code \xd7 1"]),
        ("unit", ["a.service \xd7 7", "b.service \xd7 3", "no unit \xd7 1"]),
        ("user", ["root \xd7 10", "user not known \xd7 1"]),
    ],
)
def test_the_legend_says_what_colours_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], colour: str, told: list[str]
) -> None:
    units = ["a.service"] * 7 + ["b.service"] * 3
    lives = [
        life(10 + n, 1, 1_000 * n, UNIT=unit, USER="root", EXIT_CODE=int(n == 2))
        for n, unit in enumerate(units)
    ]
    file = write(tmp_path, *lives, [entry("exec", 9, 5, COMM="x")])
    root = draw(capsys, file, "--colour", colour)
    assert [word for word in words(root) if re.search(r". \xd7 \d+$", word)] == told
    styles = {bar.get("class") for bar in root.iter(f"{SVG}path") if "bar" in bar.get("class", "")}
    assert len(styles) == len(told)


def test_units_without_a_colour_are_counted() -> None:
    entries = [one for n in range(30) for one in life(10 + n, 1, 1_000 * n, UNIT=f"{n // 2}.service")]
    counts = Counter(bar.life.unit for row in lay(entries).rows for bar in row.bars)
    kinds = {PALETTES["unit"].kinds_of(counts)(unit).text for unit in counts}
    assert len(kinds) == 9
    assert "7 others" in kinds


def test_what_is_missing_is_told_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = {"COUNT": 12, "LOST_WHERE": "kernel", "SINCE_USEC": 2_000, "UNTIL_USEC": 5_000, "COMM": "<loss>"}
    file = write(tmp_path, life(5, 1, 1_000), [entry("loss", 0, 6_000, **loss)], ["{"], life(6, 1, 9_000))
    root = draw(capsys, file)
    assert "lost, and not in the picture: 12 events" in words(root)
    assert "not in the picture: how many rules dropped is not told" in words(root)
    assert "passed over: 1 lines or entries" in words(root)
    assert len(shades(root)) == 1
    assert marks(root) == ["loss <loss>[0]"]
    assert main(["plot", "--file", file]) == 0
    assert "entries:4: not JSON" in capsys.readouterr().err


OWN = ("PROCWATCH_PID", "PROCWATCH_PROCESS_ID")


def own(kind: str, at: int, boot: str = BOOT, **fields: object) -> dict[str, Any]:
    """An entry about the daemon itself, of this boot."""
    made = entry(kind, 0, at, **fields) | {"MESSAGE": f"{kind} at {at}", "_BOOT_ID": boot}
    return {name: value for name, value in made.items() if name not in OWN}


@pytest.mark.parametrize(
    ("later", "until", "missed"),
    [
        ([], WIDTH, "an unknown number of forks"),
        ([own("blind", 70_000, SINCE_USEC=40_000, UNTIL_USEC=60_000, COUNT=7)], 0.6 * WIDTH, "about 7 forks"),
        (
            [own("blind", 70_000, SINCE_USEC=40_000, UNTIL_USEC=60_000)],
            0.6 * WIDTH,
            "an unknown number of forks",
        ),
        ([own("start", 80_000, "c" * 32)], 0.8 * WIDTH, "an unknown number of forks"),
    ],
    ids=["goes on", "ends", "ends, nobody knows how", "another boot"],
)
def test_a_blindness_is_shaded_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], later: list[dict[str, Any]], until: float, missed: str
) -> None:
    blind = own("blind", 50_000, SINCE_USEC=40_000)
    lives = life(5, 1, 0), life(6, 1, 99_000)
    root = draw(capsys, write(tmp_path, lives[0], [blind, *later], lives[1]))
    assert f"times the daemon was blind: 1; it missed {missed}" in words(root)
    ((left, right),) = shades(root)
    # The margin is a hundredth.
    assert left == pytest.approx(0.4 * WIDTH, abs=0.02 * WIDTH)
    assert right == pytest.approx(until, abs=0.02 * WIDTH)
    assert len(marks(root)) == 1
    assert marks(root)[0].startswith("blind at ")


def test_that_the_daemon_did_not_run_is_told_and_shaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = own("start", 80_000, SINCE_USEC=20_000, UNTIL_USEC=80_000)
    root = draw(capsys, write(tmp_path, life(5, 1, 0), [own("stop", 20_000), start], life(6, 1, 99_000)))
    assert "NOT RUNNING for 60ms: what ran then is not in the picture" in words(root)
    assert marks(root) == ["start at 80000"]


def test_a_stop_at_the_end_of_all_is_no_time_without_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw(capsys, write(tmp_path, life(5, 1, 0, DURATION_USEC=99_000), [own("stop", 99_000)]))
    assert not [word for word in words(root) if "NOT RUNNING" in word]


def test_a_filter_leaves_the_account_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = entry("loss", 0, 6_000, COUNT=3, LOST_WHERE="queue")
    root = draw(capsys, write(tmp_path, life(5, 1, 1_000), life(6, 1, 2_000, "/bin/ls"), [loss]), "exe=*/ls")
    assert {"lost, and not in the picture: 3 events", "only exe=*/ls"} <= set(words(root))
    assert len(titles(root)) == 1


def test_below_a_process_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = life(8, 1, 0), life(9, 1, 90_000_000)
    file = write(tmp_path, before, life(5, 1, 1_000_000, DURATION_USEC=9_000), life(6, 5, 1_001_000), after)
    root = draw(capsys, file, "--pid", "5")
    assert len(titles(root)) == 2
    assert any(", 10ms, from the first" in word for word in words(root))
    assert "only process 5 and what is below it" in words(root)


@pytest.mark.parametrize("words", [["--pid", "77"], ["exe=/none"], ["--unit", "no"]])
def test_nothing_to_draw_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    output = tmp_path / "none.svg"
    assert main(["plot", "--file", write(tmp_path, life(5, 1, 0)), "-o", str(output), *words]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert not output.exists()


def test_nothing_to_draw_says_what_was_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", "--file", write(tmp_path, ["{", "[]"]), "-o", str(tmp_path / "none.svg")]) == 2
    told = capsys.readouterr().err
    assert "entries:1: not JSON" in told
    assert told.index("entries:1") < told.index("nothing to draw")


def test_machines_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two boots of one, and another one: what is below each is not its parent's."""
    of = {0: ("0" * 32, "vm"), 1: ("1" * 32, "vm"), 2: ("2" * 32, "other")}
    entries = [
        one
        | {"_BOOT_ID": of[n][0], "_HOSTNAME": of[n][1]}
        | {"__REALTIME_TIMESTAMP": str(int(one["__REALTIME_TIMESTAMP"]) + 20_000_000 * n)}
        for n in range(3)
        for one in life(10, 1, 0)
    ]
    told = row_titles(draw(capsys, write(tmp_path, entries)))
    names = [
        title.partition("\n")[0] for title in told if "\na machine, of which there are entries from " in title
    ]
    first, second = (f"vm, {date(START_USEC + 20_000_000 * n)}" for n in range(2))
    assert names == [first, second, "other"]
    assert (
        sum(title == "sh[1]\nknown only as a parent: when it began and ended is not" for title in told) == 3
    )


def test_of_an_image_without_a_name_there_is_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (title,) = titles(
        draw(capsys, write(tmp_path, [entry("exec", 5, 1), entry("exit", 5, 900, EXIT_CODE=0)]))
    )
    assert all(title.split("\n"))


def test_a_band_says_what_its_height_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lives = (life(100 + n, 5, 530 * n, DURATION_USEC=100_000) for n in range(1_000))
    (title,) = titles(draw(capsys, write(tmp_path, itertools.chain.from_iterable(lives))))
    assert "too many for bars: the height is about how many lived in each 1.21ms" in title.splitlines()


def test_no_picture_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    file = write(tmp_path, life(5, 1, 0))
    assert main(["plot", "--file", file]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "-o lives.svg" in told.err
    assert main(["plot", "--file", file, "-o", str(tmp_path / "lives.svg")]) == 0
    assert titles(parsed((tmp_path / "lives.svg").read_text()))


HOSTS = st.sampled_from(["vm", "other"]) | WORD
VALUE = st.one_of(
    WORD,
    st.sampled_from(
        ["]]>", "</svg>", '"><script>', "&#0;", "\x00", "\ufffe", "\u202e", "\udcff", "\x1b[2J", "\U0001f469"]
    ),
    st.lists(st.integers(min_value=0, max_value=255), max_size=6),
    st.integers(),
    st.none(),
)
NAMES = ("COMM", "EXE", "CMDLINE", "USER", "UNIT", "SESSION", "CONTAINER_ID", "TAGS", "EXIT_SIGNAL", "KILLER_COMM",
         "PARENT_COMM", "PARENT_PROCESS_ID", "ANCESTORS", "PPID", "EXIT_CODE", "DURATION_USEC", "CPU_USEC",
         "PROCESS_ID",
         "MEMORY_PEAK", "MONOTONIC_USEC", "KILLER_PID", "COUNT", "SINCE_USEC", "UNTIL_USEC", "LOST_WHERE")  # fmt: skip
ENTRY = st.builds(
    lambda event, pid, at, host, more: (
        entry(event, pid, at)
        | {"_HOSTNAME": host, "MESSAGE": host}
        | {f"PROCWATCH_{name}": value for name, value in more.items()}
    ),
    st.sampled_from(["exec", "exit", "fork", "comm", "loss", "blind", "summary", "start", "stop"]),
    PIDS,
    st.integers(min_value=0, max_value=10**7),
    HOSTS,
    st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=6),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(entries=st.lists(ENTRY, min_size=1, max_size=12), colour=st.sampled_from(["status", "unit", "user"]))
def test_whatever_entries_say_the_file_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: list[dict[str, Any]], colour: str
) -> None:
    file = write(tmp_path, [json.dumps(one) for one in entries])
    capsys.readouterr()
    status = main(["plot", "--file", file, "--colour", colour])
    told = capsys.readouterr()
    if status:
        assert "nothing to draw" in told.err
        return
    root = parsed(told.out)
    assert all((one.text or "").isprintable() for one in root.iter(f"{SVG}text"))
    assert all(line.isprintable() for title in titles(root) for line in title.split("\n"))


SPANS = st.tuples(st.integers(min_value=0, max_value=10**6), st.integers(min_value=0, max_value=10**5))


@settings(deadline=None)
@given(st.lists(SPANS, max_size=80))
def test_bars_have_their_places_apart(times: list[tuple[int, int]]) -> None:
    entries = (one for n, (at, took) in enumerate(times) for one in life(10 + n, 1, at, DURATION_USEC=took))
    drawn = lay(entries)
    assert sum(len(row.lives) for row in drawn.rows) == len(times)
    for row in drawn.rows:
        assert row.is_band != bool(row.bars) or not row.lives
        for one, other in itertools.combinations(row.bars, 2):
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert apart or one.lane != other.lane
        for bar in row.bars:
            assert bar.lane < row.lanes <= LANES_LIMIT
            assert bar.x >= 0
            assert bar.x + bar.width <= WIDTH + 1e-6
        for _, heights in row.heights:
            assert all(0 <= height <= row.peak for height in heights)


@pytest.mark.parametrize("names", [1, 40, 5_000])
def test_thousands_are_few_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: int) -> None:
    entries = [
        one
        for n in range(6_000)
        for one in life(10_000 + n, 10 + n % 50, 100_000 * n, f"/bin/{n % names}", EXIT_CODE=int(n == 77))
    ]
    drawn = lay(entries)
    assert len(drawn.rows) <= ROWS_LIMIT
    assert sum(len(row.bars) for row in drawn.rows) <= BARS_LIMIT
    assert sum(len(row.lives) for row in drawn.rows) == 6_000
    assert sum(row.failed for row in drawn.rows) == 1
    assert drawn.undrawn == 0
    root = draw(capsys, write(tmp_path, entries))
    assert "6 000 processes, 1 failed, 0 still living" in " ".join(words(root))
    assert len(ET.tostring(root)) < 4_000_000


def test_a_long_line_of_descent_is_few_enough() -> None:
    drawn = lay(one for n in range(2_000) for one in life(10 + n, 9 + n, n, f"/bin/{n}", DURATION_USEC=9_000))
    assert len(drawn.rows) <= ROWS_LIMIT
    assert sum(len(row.lives) for row in drawn.rows) == 2_000


def test_a_tree_of_pairs_is_few_enough() -> None:
    """As of a program that starts itself twice."""
    drawn = lay(one for n in range(1, 4_096) for one in life(n + 1, n // 2 + 1, 10 * n, DURATION_USEC=10**6))
    rows = len(drawn.rows)
    assert 12 < rows <= ROWS_LIMIT
    assert sum(len(row.lives) for row in drawn.rows) == 4_095
    assert drawn.undrawn == 0


def test_others_have_their_own_failures() -> None:
    """What is only counted below a process that failed did not fail with it; and the other way."""
    top = Node("", Life((BOOT, ""), 0, host="vm"), START_USEC)
    make = Node("make", Life((BOOT, "5-1"), 5, comm="make"), START_USEC, seen=2, count=2, failed=2)
    make.more, make.ends = 3, {"code 3": 2}
    top.groups, top.more, top.more_failed = {"make": [make]}, 4, 1
    drawn = lay_out([top], [], [], Window(START_USEC, START_USEC + 1_000), PALETTES["status"])
    assert [(row.name, row.seen, row.failed) for row in drawn.rows] == [
        ("make", 2, 2),
        ("others", 3, 0),
        ("others", 4, 1),
    ]
    told = row_titles(parsed(svg.draw(drawn, svg.Heading("", [], []), [])))
    assert [[line for line in title.splitlines() if line.startswith("failed")] for title in told] == [
        ["failed: 2 with code 3"],
        [],
        ["failed: 1"],
    ]


def test_of_the_briefest_of_too_many_only_the_times_are_kept() -> None:
    kept = Kept(PALETTES["status"], limit=100, marks_limit=700)
    forest = Forest(is_wanted=kept_by(kept.add))
    for n in range(1_000):
        for one in life(10 + n, 5, 1_000 * n, DURATION_USEC=n + 1, EXIT_CODE=int(n == 5)):
            forest.take(one)
    boots = forest.finish()
    assert len(kept.lives) <= 100
    assert {15, 1_008, 1_009} <= {one.pid for one in kept.lives}
    assert sum(map(len, kept.marks)) == 700
    window = Window(START_USEC, START_USEC + 1_000_000)
    drawn = lay_out(boots, kept.lives, kept.marks, window, PALETTES["status"])
    (row,) = (row for row in drawn.rows if row.seen)
    assert row.is_band
    assert (row.drawn, drawn.undrawn) == (700 + len(kept.lives), 300 - len(kept.lives))
    assert sum(count for _, count in drawn.kinds) == row.drawn


@given(st.integers(min_value=1_000, max_value=10**16), st.integers(min_value=0, max_value=2 * 10**15))
def test_ticks_are_few_and_in_the_window(length: int, since: int) -> None:
    window = Window(since, since + length)
    for ticks in (clock_ticks(window), span_ticks(window)):
        times = [tick.usec for tick in ticks]
        assert times == sorted(times)
        assert len(times) <= TICKS + 1
        assert all(window.since_usec <= usec <= window.until_usec for usec in times)
    assert len({tick.text for tick in span_ticks(window)}) == len(span_ticks(window))


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (5_000, ["+0.000s", "+0.001s", "+0.002s"]),
        (9_000_000, ["+0s", "+1s", "+2s"]),
        (100_000_000, ["+0s", "+15s", "+30s", "+45s", "+1min", "+1min 15s"]),
        (3_600_000_000, ["+0s", "+10min", "+20min"]),
        (86_400_000_000, ["+0s", "+3h", "+6h"]),
    ],
)
def test_spans_are_plain(length: int, told: list[str]) -> None:
    assert [tick.text for tick in span_ticks(Window(0, length))][: len(told)] == told
