# SPDX-License-Identifier: MIT
"""`procwatchctl tree`: who started what, folded, within limits, whatever entries say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from procwatchd.ctl.lives import forest
from procwatchd.ctl.lives.forest import Forest, Node
from procwatchd.ctl.lives.lives import ENDED_LIMIT, LINE_LIMIT, Lives
from procwatchd.ctl.main import main
from tests.unit.ctlentries import BOOT, START_USEC, entry, life, write
from tests.unit.test_ctl import HOSTILE, run

UNTOLD = (
    "There may be more, as how many rules dropped is not told: that takes two accounts, one every ten minutes"
)
SH = {"COMM": "sh", "EXE": "/usr/bin/dash", "CMDLINE": "sh build"}


def tree(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["tree", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["tree", *words]) == 0
    # Times are by the local zone.
    return [
        re.sub(r"(2023-11-1. )?\d\d:\d\d:\d\d", "hh:mm:ss", line)
        for line in capsys.readouterr().out.splitlines()
    ]


def walk(nodes: list[Any]) -> Iterator[Any]:
    """All nodes, of JSON or of the forest."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        todo += node.children if isinstance(node, Node) else node["children"]


def test_who_started_what_and_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path,
        [entry("exec", 10, 1_000_000, **SH, USER="alice", UNIT="build.service", PPID=1, ANCESTORS="systemd[1]")],
        life(11, 10, 2_000_000, "/usr/bin/make", CPU_USEC=20_000, MEMORY_PEAK=3 << 20),
        life(12, 10, 3_000_000, "/tmp/x", EXIT_CODE=None, EXIT_SIGNAL="SIGKILL", KILLER_PID=7, KILLER_COMM="kill"),
        life(13, 10, 4_000_000, "/usr/bin/id", EXIT_CODE=3, USER="root"),
        life(14, 10, 5_000_000, "/usr/bin/hog", EXIT_CODE=None, EXIT_SIGNAL="SIGKILL", OOM_KILLED=1),
        life(15, 10, 6_000_000, "/usr/bin/self", EXIT_CODE=None, EXIT_SIGNAL="SIGABRT", KILLER_PID=15),
    )  # fmt: skip
    assert lines(capsys, "--file", file) == [
        "From hh:mm:ss to hh:mm:ss",
        "6 processes, 4 failed, 1 living; 11 entries read",
        UNTOLD,
        "PID     START     RAN   CPU  MEMORY  STATUS   COMMAND",
        "  1                                           systemd",
        " 10  hh:mm:ss  5.99s+                living   └─(alice build.service) sh build",
        " 11  hh:mm:ss     1ms  20ms    3.0M  ok         ├─/usr/bin/make 11",
        " 12  hh:mm:ss     1ms                SIGKILL    ├─/tmp/x 12  (SIGKILL from kill[7])",
        " 13  hh:mm:ss     1ms                code 3     ├─(root) /usr/bin/id 13",
        " 14  hh:mm:ss     1ms                SIGKILL    ├─/usr/bin/hog 14  (the kernel was out of memory)",
        " 15  hh:mm:ss     1ms                SIGABRT    └─/usr/bin/self 15  (SIGABRT from itself)",
    ]


def test_from_the_fifth_of_a_kind_on_they_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = [one for pid in range(11, 15) for one in life(pid, 10, pid * 1000, CPU_USEC=1000)]
    fifth = life(15, 10, 15_000, EXIT_CODE=1, DURATION_USEC=9000, CPU_USEC=500, MEMORY_PEAK=1 << 20)
    assert len(list(walk(tree(capsys, "--file", write(tmp_path, four))["boots"]))) == 1 + 1 + 4
    file = write(tmp_path, four, fifth)
    (boot,) = tree(capsys, "--file", file)["boots"]
    (shell,) = boot["children"]
    (folded,) = shell["children"]
    expected = {"kind": "/usr/bin/cc1", "count": 5, "seen": 5, "failed": 1, "succeeded": 4, "cpu_usec": 4500,
                "memory_peak": 1 << 20, "shortest_usec": 1000, "longest_usec": 9000, "ends": {"code 1": 1},
                "since_usec": START_USEC + 11_000, "until_usec": START_USEC + 24_000}  # fmt: skip
    assert {name: folded[name] for name in expected} == expected
    assert (folded["sample"]["pid"], folded["sample"]["status"]) == (15, "code 1")
    assert lines(capsys, "--file", file)[-1] == (
        "     hh:mm:ss  1ms–9ms  4.5ms    1.0M  1 × code 1  └─cc1 × 5  such as /usr/bin/cc1 15"  # noqa: RUF001
    )
    assert len(lines(capsys, "--file", file, "--all")) == 4 + 1 + 5


def test_what_is_below_folded_ones_is_folded_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[Any] = []
    for at in range(6):
        gcc, cc1 = 100 + at, 200 + at
        inner = life(cc1, gcc, 10_000 * at + 100, EXIT_CODE=at % 2)
        start, end = life(gcc, 10, 10_000 * at, "/usr/bin/gcc", DURATION_USEC=5000)
        # Every other one has ended before what it started: that was in the background.
        made += [start, inner[0], end, inner[1]] if at % 2 else [start, *inner, end]
    made += life(300, 105, 99_000, "/usr/bin/as")  # a late one of the last
    (boot,) = tree(capsys, "--file", write(tmp_path, made))["boots"]
    (gccs,) = boot["children"][0]["children"]
    assert [(node["kind"], node["seen"], node["failed"]) for node in gccs["children"]] == [
        ("/usr/bin/cc1", 6, 3),
        ("/usr/bin/as", 1, 0),
    ]


def test_of_folded_ones_is_said_what_they_do_not_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [one for pid in range(11, 20) for one in life(pid, 10, pid, USER=f"u{pid % 2}", UNIT="a.service")]
    file = write(tmp_path, made)
    assert "(various users a.service)" in lines(capsys, "--file", file)[-1]
    (folded,) = tree(capsys, "--file", file)["boots"][0]["children"][0]["children"]
    assert (folded["user"], folded["unit"]) == ("various", "a.service")


def test_those_below_a_process_a_unit_or_a_session_and_those_above(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path,
        [entry("exec", 10, 1000, **SH, UNIT="cron.service", SESSION=3, PPID=1, ANCESTORS="cron[5] systemd[1]")],
        life(11, 10, 2000, "/usr/bin/find"),
        life(12, 11, 3000, "/usr/bin/grep"),
        life(20, 5, 4000, "/usr/bin/other"),
    )  # fmt: skip

    def pids(*words: str) -> dict[int, int]:
        found = tree(capsys, "--file", file, *words)
        return {node["sample"]["pid"]: node["seen"] for node in walk(found["boots"][0]["children"])}

    assert pids() == {1: 0, 5: 0, 10: 1, 11: 1, 12: 1, 20: 1}
    assert pids("--pid", "11") == {1: 0, 5: 0, 10: 0, 11: 1, 12: 1}
    assert pids("--process-id", "11-1") == pids("--pid", "11")
    assert pids("--unit", "cron") == pids("--session", "3") == {1: 0, 5: 0, 10: 1, 11: 1, 12: 1}
    assert tree(capsys, "--file", file, "--session", "4")["boots"] == []
    assert pids("exe=*/grep") == {11: 0, 12: 1}


def test_what_entries_say_is_missing_is_told_with_filters_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [
        entry("statistics", 1, 1, DROPPED=5),
        entry("loss", 1, 2, COUNT=7, LOST_WHERE="kernel"),
        entry("summary", 1, 3, COUNT=9),
        entry("statistics", 1, 4, DROPPED=8),
    ]
    file = write(tmp_path, told, life(11, 10, 1000), ["{"])
    for words in ((), ("exe=/none",)):
        out = lines(capsys, "--file", file, *words)
        assert (
            "Not all events of this time have an entry: 9 only summarised, 7 lost, "
            "dropped by rules at least 3, those from hh:mm:ss to hh:mm:ss" in out
        )
        assert out[-2:] == ["1 lines or entries passed over:", f"  {file}:7: not JSON, or cut off"]
    found = tree(capsys, "--file", file)
    known = {"dropped": 3, "dropped_since_usec": START_USEC + 1, "dropped_until_usec": START_USEC + 4}
    assert found["absent"].items() >= {**known, "summarised": 9, "lost": 7, "blind": 0}.items()
    assert found["skipped"]["count"] == 1


def test_how_long_the_daemon_did_not_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = 1_000_000
    restart = [
        entry("stop", 1, 10 * second),
        entry("start", 1, 3000 * second, SINCE_USEC=10 * second, UNTIL_USEC=3000 * second),
    ]
    file = write(tmp_path, life(11, 10, 1000), restart, life(12, 10, 3600 * second))
    for words in ((), ("exe=/usr/bin/cc1",)):
        said = "NOT RUNNING for 49min 50s of this time: the daemon listened to nothing"
        assert said in lines(capsys, "--file", file, *words)
    assert tree(capsys, "--file", file)["absent"]["not_running_usec"] == 2990 * second
    assert "NOT RUNNING" not in "".join(lines(capsys, "--file", write(tmp_path, life(11, 10, 1000))))


def test_machines_and_boots_stand_for_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [one | {"_BOOT_ID": "c" * 32, "_HOSTNAME": "two"} for one in life(11, 10, 9_000)]
    file = write(tmp_path, life(11, 10, 1000), other)
    found = tree(capsys, "--file", file)
    assert [(boot["host"], boot["boot_id"]) for boot in found["boots"]] == [("vm", BOOT), ("two", "c" * 32)]
    assert f"two, boot {'c' * 32}" in lines(capsys, "--file", file)


@pytest.mark.parametrize("width", [30, 60, 120])
def test_on_a_terminal_no_line_is_wrapped(tmp_path: Path, width: int) -> None:
    long = [entry("exec", 10, 1000, COMM="語", EXE="/bin/語", CMDLINE=f"{'語 ' * 500}")]
    file = write(tmp_path, long, life(11, 10, 2000))
    out, status = run("tree", "--file", file, PAGER="cat", COLUMNS=str(width))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out).replace("\r\n", "\n").splitlines()
    assert status == 0
    assert max(cell_len(line) for line in shown) == width
    assert "\x1b[2m" in out


def test_what_is_far_to_the_right_is_seen_all_the_same(tmp_path: Path) -> None:
    made = [
        entry("exec", pid, pid, COMM="x", CMDLINE=f"x {pid}", PPID=pid - 1, PARENT_PROCESS_ID=f"{pid - 1}-1")
        for pid in range(2, 90)
    ]
    file = write(tmp_path, made)
    assert "…" not in run("tree", "--file", file, PAGER="cat", COLUMNS="600")[0]
    assert "└─\x1b[0mx 89" in run("tree", "--file", file, PAGER="cat", COLUMNS="80")[0]


def test_what_hides_behind_another_name_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {
        ("/usr/bin/python3.11", "python3 -V"): "python3 -V",
        ("/usr/bin/bash", "-bash"): "-bash",
        ("/usr/bin/dash", "sh -c id"): "sh -c id",
        ("/usr/bin/nc", "'[kworker/0:1]'"): "nc: '[kworker/0:1]'",
        ("/tmp/sshd", "sshd -D"): "/tmp/sshd: sshd -D",
        ("/home/a/run", "/home/a/run x"): "/home/a/run x",
    }
    made = [
        entry("exec", pid, pid, EXE=exe, CMDLINE=command, COMM="x")
        for pid, (exe, command) in enumerate(shown, 1)
    ]
    out = lines(capsys, "--file", write(tmp_path, made))
    assert [line.split("living  ")[1] for line in out[-len(shown) :]] == list(shown.values())


def test_a_unit_has_a_type_and_a_user_s_own_is_not_the_system_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = {"USER": "eve", "UNIT": "user@7.service", "USER_UNIT": "sshd.service"}
    file = write(
        tmp_path,
        [entry("exec", 5, 1, UNIT="php8.2-fpm.service"), entry("exec", 6, 2, UNIT="sshd.service")],
        [entry("exec", 7, 3, **mine), entry("exec", 8, 4, UNIT="a.mount")],
    )

    def pids(unit: str) -> list[int]:
        found = tree(capsys, "--file", file, "--unit", unit)["boots"]
        return [node["sample"]["pid"] for node in walk([one for boot in found for one in boot["children"]])]

    names = ("php8.2-fpm", "sshd", "sshd.service", "sshd.service (eve)", "a.mount", "a")
    assert [pids(name) for name in names] == [[5], [6], [6], [7], [8], []]


def test_who_lives_is_not_known_where_a_filter_may_have_left_out_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path, [entry("exec", 10, 1000, **SH)], life(11, 10, 2000), life(12, 10, 9000, EXIT_CODE=1)
    )
    out = lines(capsys, "--file", file, "event=exec")
    assert not any("living" in line for line in out)
    assert "Of 3 no end is shown: they live, or the filter left it out" in out
    found = tree(capsys, "--file", file, "event=exec")
    nodes = [*walk(found["boots"][0]["children"])]
    assert {found["living"], *(node["living"] for node in nodes)} == {None}
    assert {node["sample"]["status"] for node in nodes} == {""}
    # Read are all entries of a file, whatever is asked for.
    assert found["entries"] == 5
    assert tree(capsys, "--file", file)["living"] == 1


def test_a_start_that_is_not_known_is_marked_and_how_long_it_ran_is_by_its_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        entry("uid", 5, 3_000_000, PROCESS_ID="5-100", COMM="known"),
        entry("uid", 6, 3_000_000, PROCESS_ID="", COMM="unknown"),
        entry("fork", 7, 4_000_000, PROCESS_ID="7-400", COMM="short"),
        entry("exit", 7, 4_500_000, PROCESS_ID="7-400", COMM="short", EXIT_CODE=0),
    ]
    file = write(tmp_path, made)
    assert [line.split() for line in lines(capsys, "--file", file)[4:]] == [
        ["5", "hh:mm:ss", "3.5s+", "living", "known"],
        ["6", "<hh:mm:ss", "living", "unknown"],
        ["7", "hh:mm:ss", "500ms", "ok", "short"],
    ]
    nodes = tree(capsys, "--file", file)["boots"][0]["children"]
    known = {node["kind"]: (node["is_since_known"], node["since_usec"] - START_USEC) for node in nodes}
    assert known == {"known": (True, 1_000_000), "unknown": (False, 3_000_000), "short": (True, 4_000_000)}


def test_of_many_those_that_live_are_told_beside_those_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = [life(pid, 10, pid * 1000)[0] for pid in range(11, 15)]
    file = write(tmp_path, four, life(15, 10, 20_000, EXIT_CODE=1))
    assert "1 × code 1, 4 living" in lines(capsys, "--file", file)[-1]  # noqa: RUF001


def test_json_says_what_was_left_out_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, life(11, 10, 1000), [entry("exec", 12, 2000) | {"PROCWATCH_EXE": None}])
    found = tree(capsys, "--file", file, "exe=/usr/bin/cc1")
    assert (found["unknown"], found["forgotten"]) == (1, 0)
    assert found["boots"][0]["more_failed"] == 0


def finished(nodes_limit: int, *entries: dict[str, Any]) -> tuple[Forest, list[Node]]:
    trees = Forest(nodes_limit=nodes_limit)
    for one in entries:
        trees.take(one)
    return trees, trees.finish()


def test_above_the_limit_processes_are_only_counted() -> None:
    made = [
        one for pid in range(11, 1011) for one in life(pid, 10, pid, f"/usr/bin/{pid}", EXIT_CODE=pid % 2)
    ]
    trees, boots = finished(50, *made)
    nodes = list(walk(boots))
    assert len(nodes) <= 55
    assert (trees.processes, trees.failed) == (1000, 500)
    assert sum(node.seen + node.more for node in nodes) == 1000
    assert sum(node.failed + node.more_failed for node in nodes) == 500


def test_a_chain_of_parents_is_cut_where_it_is_too_deep() -> None:
    made = [entry("exec", pid, pid, EXE=f"/bin/{pid}", PPID=pid - 1, PARENT_PROCESS_ID=f"{pid - 1}-1")
            for pid in range(2, 600)]  # fmt: skip
    trees, (boot,) = finished(1000, *made)

    def depth(node: Node) -> int:
        return 1 + max((depth(child) for child in node.children), default=0)

    assert depth(boot) <= forest.DEPTH_LIMIT + 1
    assert sum(node.seen + node.more for node in walk([boot])) == trees.processes == 598


def test_memory_is_bounded_by_the_living() -> None:
    """A line of parents that end as soon as they have a child, as long as the entries."""
    lives = Lives()
    pid = 2
    for pid in range(2, 3 * ENDED_LIMIT):
        lives.take(entry("fork", pid, pid, PPID=pid - 1, PARENT_PROCESS_ID=f"{pid - 1}-1"))
        lives.take(entry("exit", pid - 1, pid, EXIT_CODE=0))
    (last,) = lives.living.values()
    above, count = last.parent, 0
    while above is not None:
        above, count = above.parent, count + 1
    assert last.pid == pid
    assert count <= LINE_LIMIT


NUMBERS = st.sampled_from(["0", "1", "2", "3", "4", "-1", "9" * 17, "x", "", "1\n"])
TEXTS = st.sampled_from(
    ["a", "", HOSTILE, "a[1] b[2] a[1]", "b[2] b[2]", "c[3] " * 40, None, [255, 10], ["a", "b"]]
)
VALUES = st.one_of(NUMBERS, TEXTS)
NAMES = ("PID", "PPID", "PROCESS_ID", "PARENT_PROCESS_ID", "ANCESTORS", "COMM", "EXE", "CMDLINE", "USER", "UNIT",
         "EXIT_CODE", "EXIT_SIGNAL", "DURATION_USEC", "CPU_USEC", "MEMORY_PEAK", "TID", "MONOTONIC_USEC", "COUNT",
         "KILLER_PID", "OOM_KILLED", "DROPPED")  # fmt: skip
ENTRIES = st.fixed_dictionaries(
    {"PROCWATCH_EVENT": st.sampled_from(["exec", "exit", "fork", "comm", "loss", "statistics", "none"])},
    optional={f"PROCWATCH_{name}": VALUES for name in NAMES}
    | dict.fromkeys(("_BOOT_ID", "_HOSTNAME", "__REALTIME_TIMESTAMP", "MESSAGE", "PRIORITY"), VALUES),
)


@given(st.lists(ENTRIES, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@pytest.mark.parametrize("more", [("tree",), ("tree", "--all"), ("tree", "--pid", "2"), ("log", "--tree")])
def test_whatever_entries_say_the_output_is_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], entries: list[dict[str, Any]]
) -> None:
    file = write(tmp_path, entries)
    assert main([*more, "--file", file]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
    assert main([*more, "--file", file, "--json"]) == 0
    assert capsys.readouterr().out.isascii()


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(2, 30), st.integers(1, 30), st.sampled_from("abc")), max_size=80
    )
)
@settings(deadline=None)
def test_each_process_is_somewhere_in_the_trees(story: list[tuple[bool, int, int, str]]) -> None:
    """However they start and end, and whoever is below whom; folded or not, the numbers are the same."""
    made = []
    for at, (starts, pid, of, exe) in enumerate(story):
        who = {"EXE": f"/{exe}", "PPID": of, "PARENT_PROCESS_ID": f"{of}-1"}
        made.append(entry("exec" if starts else "exit", pid, at, **who, EXIT_CODE=pid % 2))
    for trees in (Forest(), Forest(is_folding=False), Forest(nodes_limit=3)):
        for one in made:
            trees.take(one)
        nodes = list(walk(list(trees.finish())))
        assert sum(node.seen + node.more for node in nodes) == trees.processes
        assert sum(node.failed + node.more_failed for node in nodes) == trees.failed
