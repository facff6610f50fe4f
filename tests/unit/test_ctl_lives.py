# SPDX-License-Identifier: MIT
"""From entries to lives: none is another's, none ends twice, and nothing that is read makes it fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd.ctl.lives import lives as module
from procwatchd.ctl.lives.lives import Life, Lives
from procwatchd.process.fields import EVENTS
from procwatchd.process.model import ANCESTOR_LIMIT

NOW = 1_000_000_000_000_000
SECOND = 1_000_000


def entry(
    event: str,
    pid: int,
    start: int | str | None = None,
    at: int = 0,
    *,
    boot: str = "b",
    host: str = "h",
    **fields: Any,
) -> dict[str, Any]:
    """An entry of `at` µs after NOW, which the kernel counts from the boot on."""
    process_id = {} if start is None else {"PROCESS_ID": f"{pid}-{start}"}
    values = {"EVENT": event, "PID": pid, "MONOTONIC_USEC": SECOND + at, **process_id, **fields}
    return {
        "_BOOT_ID": boot,
        "_HOSTNAME": host,
        "__REALTIME_TIMESTAMP": str(NOW + at),
        **{f"PROCWATCH_{name}": str(value) for name, value in values.items()},
    }


class Reader:
    """Reads entries, and has what ended."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.ended: list[Life] = []
        self.lives = Lives(self.ended.append)
        for one in entries:
            self.lives.take(one)

    @property
    def living(self) -> list[Life]:
        return list(self.lives.living.values())

    def life(self, process_id: str) -> Life:
        (found,) = [life for life in self.living + self.ended if life.key[1] == process_id]
        return found


def ids(found: list[Life]) -> list[str]:
    return [life.key[1] for life in found]


def line_of(life: Life | None) -> Iterator[Life]:
    while life is not None:
        yield life
        life = life.parent


def line(life: Life | None) -> Iterator[str]:
    """It and those that it descends from."""
    while life is not None:
        yield f"{life.comm}[{life.pid}]"
        life = life.parent


def test_a_life_from_fork_to_exit() -> None:
    read = Reader(
        entry("fork", 5, 100, COMM="sh", EXE="/bin/sh", CMDLINE="sh x", USER="root", UNIT="a.service"),
        entry(
            "exec", 5, 100, SECOND, COMM="vi", EXE="/bin/vi", CMDLINE="vi y", USER="root", UNIT="a.service"
        ),
        entry("exit", 5, 100, 3 * SECOND, COMM="vi", EXIT_CODE=1, CPU_USEC=7, MEMORY_PEAK=9),
    )
    (life,) = read.ended
    assert (life.since_usec, life.until_usec) == (NOW, NOW + 3 * SECOND)
    assert (life.is_since_known, life.is_end_known) == (True, True)
    assert [image.command for image in life.images] == ["sh x", "vi y"]
    assert (life.exe, life.command, life.user, life.unit) == ("/bin/vi", "vi y", "root", "a.service")
    assert (life.status, life.has_failed, life.cpu_usec, life.memory_peak) == ("code 1", True, 7, 9)
    assert read.living == []


@pytest.mark.parametrize(
    ("fields", "status", "has_failed"),
    [
        ({"EXIT_CODE": 0}, "code 0", False),
        ({"EXIT_SIGNAL": "SIGSEGV"}, "SIGSEGV", True),
        (
            {"EXIT_SIGNAL": "SIGKILL", "KILLER_PID": 7, "KILLER_COMM": "kill"},
            "SIGKILL from kill[7]",
            True,
        ),
        ({"EXIT_SIGNAL": "SIGKILL", "KILLER_PID": 7}, "SIGKILL from ?[7]", True),
        ({"EXIT_SIGNAL": "SIGKILL", "OOM_KILLED": 1}, "SIGKILL by the kernel, out of memory", True),
        ({}, "ended", False),
    ],
)
def test_how_it_ended(fields: dict[str, Any], status: str, has_failed: bool) -> None:
    (life,) = Reader(entry("exit", 5, 100, **fields)).ended
    assert (life.status, life.has_failed, life.is_end_known) == (status, has_failed, True)


def test_an_end_alone_tells_when_it_began_and_what_it_ran() -> None:
    (life,) = Reader(entry("exit", 5, 100, SECOND, EXE="/bin/sh", CMDLINE="sh", DURATION_USEC=SECOND)).ended
    assert (life.since_usec, life.is_since_known, life.command) == (NOW, True, "sh")


def test_a_pid_comes_again() -> None:
    read = Reader(
        entry("exec", 5, 100, CMDLINE="a"),
        entry("exit", 5, 100, 1, EXIT_CODE=0),
        entry("exec", 5, 200, 2, CMDLINE="b"),
        entry("exec", 5, "200.2", 3, CMDLINE="c"),
    )
    assert [(life.key[1], life.is_end_known, life.command) for life in read.ended] == [
        ("5-100", True, "a"),
        ("5-200", False, "b"),
    ]
    assert ids(read.living) == ["5-200.2"]


def test_where_no_process_id_is_recorded_an_end_or_a_fork_tells_lives_apart() -> None:
    read = Reader(
        entry("exec", 5, CMDLINE="a"),
        entry("exec", 5, at=1, CMDLINE="b"),
        entry("exit", 5, at=2),
        entry("exec", 5, at=3, CMDLINE="c"),
        entry("fork", 5, at=4, CMDLINE="d"),
        entry("fork", 5, at=5, CMDLINE="a thread", TID=6),
    )
    assert [(life.command, life.is_end_known) for life in read.ended] == [("b", True), ("c", False)]
    assert [life.command for life in read.living] == ["d"]


def test_an_entry_that_comes_too_late_ends_nobody_else() -> None:
    late = entry("exit", 5, 100, 2, CMDLINE="a", EXIT_CODE=3)
    read = Reader(entry("exec", 5, 200, 1, CMDLINE="b"), late)
    assert ids(read.living) == ["5-200"]
    assert [(life.key[1], life.status, life.is_end_known) for life in read.ended] == [
        ("5-100", "code 3", True)
    ]
    read.lives.take(entry("comm", 5, 50, 3, COMM="x"))
    read.lives.take(entry("comm", 5, 50, 4, COMM="y"))
    assert [(life.key[1], life.status) for life in read.ended[1:]] == [("5-50", "ended")]
    assert ids(read.living) == ["5-200"]


def test_what_is_read_twice_happened_once() -> None:
    both = [entry("exec", 5, 100, CMDLINE="a"), entry("exit", 5, 100, 1, EXIT_CODE=0)]
    read = Reader(*both, *both)
    assert ids(read.ended) == ["5-100"]
    assert (read.living, [image.command for image in read.ended[0].images]) == ([], ["a"])


def test_a_line_of_ancestors() -> None:
    read = Reader(
        entry(
            "exec",
            9,
            300,
            COMM="ls",
            PARENT_PROCESS_ID="8-200",
            PARENT_COMM="sh",
            PARENT_EXE="/bin/sh",
            PARENT_CMDLINE="sh -c ls",
            ANCESTORS="sh[8] sshd\\x20x[7] init[1]",
        )
    )
    assert list(line(read.life("9-300"))) == ["ls[9]", "sh[8]", "sshd\\x20x[7]", "init[1]"]
    parent = read.life("8-200")
    assert (parent.exe, parent.command, parent.is_seen, parent.status) == (
        "/bin/sh",
        "sh -c ls",
        False,
        "unknown",
    )


@pytest.mark.parametrize(
    "fields", [{"PPID": 8}, {"PARENT_PROCESS_ID": "8-200"}, {"PPID": 8, "PARENT_PROCESS_ID": "8-200"}]
)
def test_a_parent_is_known_by_whatever_says_so(fields: dict[str, Any]) -> None:
    read = Reader(entry("exec", 9, 300, **fields))
    parent = read.life("9-300").parent
    assert parent is not None
    assert parent.pid == 8


def test_a_named_ancestor_gets_entries_of_its_own() -> None:
    child = entry("exec", 9, 300, at=SECOND, COMM="ls", ANCESTORS="sh[8] init[1]", PPID=8)
    read = Reader(child, entry("exec", 8, 200, 2 * SECOND, COMM="sh2", CMDLINE="sh2"))
    child_life = read.life("9-300")
    assert child_life.parent is read.life("8-200")
    assert list(line(child_life)) == ["ls[9]", "sh2[8]", "init[1]"]
    assert read.ended == []


def test_whoever_gets_the_pid_of_a_named_ancestor_is_not_that() -> None:
    """It began after those that descend from it."""
    read = Reader(
        entry("exec", 9, 300, COMM="ls", ANCESTORS="sh[8] init[1]", PPID=8),
        entry("exec", 8, 400, SECOND, COMM="evil"),
    )
    assert list(line(read.life("9-300"))) == ["ls[9]", "sh[8]", "init[1]"]
    assert [(life.comm, life.is_end_known) for life in read.ended] == [("sh", False)]


def test_who_has_an_ancestors_pid_now_is_not_that_ancestor() -> None:
    read = Reader(
        entry("exec", 7, 400, COMM="evil"),
        entry("exec", 9, 300, SECOND, COMM="ls", ANCESTORS="sh[8] sshd[7]", PARENT_PROCESS_ID="8-200"),
        entry("exec", 10, 310, SECOND, COMM="cp", ANCESTORS="bash[11] sshd[7]", PARENT_PROCESS_ID="11-200"),
        entry("exec", 12, 500, SECOND, COMM="mv", ANCESTORS="dash[13] evil[7]", PARENT_PROCESS_ID="13-400"),
    )
    assert list(line(read.life("9-300"))) == ["ls[9]", "sh[8]", "sshd[7]"]
    assert list(line(read.life("10-310"))) == ["cp[10]", "bash[11]", "sshd[7]"]
    assert list(line(read.life("12-500"))) == ["mv[12]", "dash[13]", "evil[7]"]
    assert [(life.comm, life.is_seen) for life in read.ended] == [("sshd", False)]
    assert "7-400" in ids(read.living)


def test_an_ancestor_that_had_the_same_pid_is_not_the_process_itself() -> None:
    read = Reader(entry("exec", 8, 500, COMM="ls", ANCESTORS="x[9] sh[8] init[1]", PARENT_PROCESS_ID="9-300"))
    assert list(line(read.life("8-500"))) == ["ls[8]", "x[9]", "sh[8]", "init[1]"]
    assert ids(read.ended) == ["8"]


def test_a_parent_that_ended_before_its_child_is_its_parent_still() -> None:
    read = Reader(
        entry("exec", 8, 200, CMDLINE="daemonize"),
        entry("exit", 8, 200, 1),
        entry("exec", 8, 400, 2, CMDLINE="another"),
        entry("exec", 9, 300, 3, CMDLINE="service", PARENT_PROCESS_ID="8-200", ANCESTORS="daemonize[8]"),
    )
    parent = read.life("9-300").parent
    assert parent is read.life("8-200")
    assert ids(read.ended) == ["8-200"]
    assert sorted(ids(read.living)) == ["8-400", "9-300"]


def test_a_parent_nobody_told_of_is_not_who_has_its_pid_now() -> None:
    read = Reader(
        entry("exec", 8, 400, CMDLINE="another"),
        entry("exec", 9, 300, 3, CMDLINE="service", PARENT_PROCESS_ID="8-200", ANCESTORS="daemonize[8]"),
    )
    parent = read.life("9-300").parent
    assert parent is not None
    assert (parent.comm, parent.is_seen, parent.status) == ("daemonize", False, "ended")
    assert sorted(ids(read.living)) == ["8-400", "9-300"]


def test_nobody_begins_after_what_descends_from_it() -> None:
    read = Reader(
        entry("exit", 9, 300, 5 * SECOND, DURATION_USEC=4 * SECOND, ANCESTORS="sh[8] init[1]", PPID=8)
    )
    (life,) = read.ended
    assert life.since_usec == NOW + SECOND
    assert [one.since_usec for one in read.living] == [NOW + SECOND] * 2


def test_an_exec_that_could_not_be_read_does_not_have_the_name_of_before() -> None:
    read = Reader(
        entry("exec", 5, 100, COMM="innocent", CMDLINE="innocent"), entry("exec", 5, 100, 1, IDENTITY="gone")
    )
    assert read.life("5-100").command == "?"


def test_a_reboot_ends_whoever_lived_and_that_host_alone() -> None:
    read = Reader(
        entry("exec", 5, 100, boot="one", host="a"),
        entry("exec", 5, 100, boot="two", host="b"),
        entry("exec", 6, 100, SECOND, boot="one", host="a"),
        entry("exec", 5, 100, 5 * SECOND, boot="three", host="a"),
    )
    assert [(life.key, life.is_end_known, life.until_usec) for life in read.ended] == [
        (("one", "5-100"), False, NOW + SECOND),
        (("one", "6-100"), False, NOW + SECOND),
    ]
    assert sorted(read.lives.living) == [("three", "5-100"), ("two", "5-100")]


def test_several_hosts_in_turns_have_processes_of_their_own() -> None:
    one = [
        entry("exec", 5, 100, CMDLINE="a", boot="one", host="a"),
        entry("exit", 5, 100, 9, boot="one", host="a"),
    ]
    two = [
        entry("exec", 5, 100, CMDLINE="b", boot="two", host="b"),
        entry("exit", 5, 100, 9, boot="two", host="b"),
    ]
    read = Reader(one[0], two[0], one[1], two[1])
    assert [(life.host, life.command, life.is_end_known) for life in read.ended] == [
        ("a", "a", True),
        ("b", "b", True),
    ]


def test_two_hosts_of_one_name_are_taken_for_a_reboot_once() -> None:
    boots = ["one", "two"] * 3
    read = Reader(*(entry("exec", pid, 100, pid, boot=boot) for pid, boot in enumerate(boots, 1)))
    assert ids(read.ended) == ["1-100"]
    assert len(read.living) == 5


def test_too_many_are_forgotten_those_first_that_were_heard_of_least_recently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIVING_LIMIT", 3)
    pids = [1, 2, 3, 1, 4, 5]
    read = Reader(*(entry("exec", pid, 100, at) for at, pid in enumerate(pids)))
    assert (ids(read.ended), read.lives.forgotten) == (["2-100", "3-100"], 2)
    assert sorted(ids(read.living)) == ["1-100", "4-100", "5-100"]
    assert not any(life.is_end_known for life in read.ended)


def test_of_too_many_boots_the_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOTS_LIMIT", 2)
    read = Reader(*(entry("exec", 5, 100, boot=str(n), host=str(n)) for n in range(5)))
    assert [life.key[0] for life in read.ended] == ["0", "1", "2"]
    assert sorted(key[0] for key in read.lives.living) == ["3", "4"]


def test_a_line_without_end_is_not_kept() -> None:
    """Each is the child of one that has ended."""
    entries = [
        one
        for pid in range(1, 1000)
        for one in (
            entry(
                "exec", pid, pid, pid, PARENT_PROCESS_ID=f"{pid - 1}-{pid - 1}" if pid > 1 else "", COMM="a"
            ),
            entry("exit", pid, pid, pid, COMM="a"),
        )
    ]
    read = Reader(*entries)
    assert max(len(list(line(life))) for life in read.ended) <= module.LINE_LIMIT + 1
    assert read.living == []


def test_an_entry_names_no_more_ancestors_than_the_daemon_would() -> None:
    names = " ".join(f"a[{pid}]" for pid in range(10, 10_000))
    read = Reader(
        entry("exec", 5, 100, ANCESTORS=names), entry("exec", 6, 100, ANCESTORS="a" * 10**6 + "[" * 10**6)
    )
    assert len(read.living) == ANCESTOR_LIMIT + 2


def test_a_clock_that_is_set_back_and_forth_moves_times_but_no_life_ends_before_it_begins() -> None:
    hour = 3600 * SECOND
    entries = [entry("exec", 5, 100), entry("exec", 6, 200, SECOND), entry("exit", 6, 200, 2 * SECOND)]
    entries += [
        entry("exec", 7, 400, 3 * SECOND),
        entry("exit", 7, 400, 4 * SECOND),
        entry("exit", 5, 100, 5 * SECOND),
    ]
    for at, shift in ((2, -hour), (3, -hour), (4, hour)):
        entries[at]["__REALTIME_TIMESTAMP"] = str(int(entries[at]["__REALTIME_TIMESTAMP"]) + shift)
    read = Reader(*entries)
    assert ids(read.ended) == ["6-200", "7-400", "5-100"]
    assert [life.until_usec for life in read.ended] == [
        NOW + SECOND,  # by the clock of then it was an hour before
        NOW + 4 * SECOND + hour,
        NOW + 5 * SECOND,
    ]


def test_what_was_written_late_happened_before() -> None:
    entries = [entry("exec", 5, 100), entry("exec", 6, 200, SECOND), entry("exec", 7, 300, 2 * SECOND)]
    entries[1]["__REALTIME_TIMESTAMP"] = str(NOW + 9 * SECOND)
    assert [life.since_usec for life in Reader(*entries).living] == [NOW, NOW + SECOND, NOW + 2 * SECOND]


def test_when_it_was_forked_is_in_its_process_id() -> None:
    hour = 360_000  # ticks
    read = Reader(entry("uid", 5, 50, 9 * SECOND), entry("exec", 6, hour + 1100, 10 * SECOND))
    # The machine slept for an hour before the second.
    read.lives.take(entry("uid", 7, 200, 11 * SECOND))
    assert [life.since_usec - NOW for life in read.living] == [
        -SECOND // 2,
        10 * SECOND,
        SECOND - 3600 * SECOND,
    ]
    assert all(life.is_since_known for life in read.living)


@pytest.mark.parametrize("start", [None, "9" * 17, "9" * 20])
def test_a_start_that_nothing_tells_is_not_known(start: str | None) -> None:
    (life,) = Reader(entry("uid", 5, start, SECOND)).living
    assert (life.is_since_known, life.since_usec) == (False, NOW + SECOND)


def test_a_user_has_one_name_and_his_units_are_not_the_system_s() -> None:
    read = Reader(
        entry("exec", 5, 100, USER="eve", UID=1000, UNIT="user@1000.service", USER_UNIT="sshd.service"),
        entry("exec", 6, 100, UID=1000, UNIT="sshd.service"),
        entry("exec", 7, 100, UID=0),
        entry("exec", 8, 100, UID=7),
        entry("exec", 9, 100, USER_UNIT="a.service"),
    )
    assert [(life.user, life.unit) for life in read.living] == [
        ("eve", "sshd.service (eve)"),
        ("eve", "sshd.service"),
        ("root", ""),
        ("7", ""),
        ("", "a.service (?)"),
    ]


def test_who_was_only_named_has_its_id_when_an_entry_says_it() -> None:
    read = Reader(
        entry("exec", 7, 300, ANCESTORS="b[6] a[5]"), entry("exec", 6, 200, PARENT_PROCESS_ID="5-100", PPID=5)
    )
    assert ids([*line_of(read.life("7-300"))]) == ["7-300", "6-200", "5-100"]
    read.lives.take(entry("exit", 5, 100))
    assert ids(read.ended) == ["5-100"]


@pytest.mark.parametrize(
    ("fields", "since"),
    [
        ({"__REALTIME_TIMESTAMP": None}, SECOND),
        ({"PROCWATCH_MONOTONIC_USEC": "x"}, NOW),
        ({"PROCWATCH_MONOTONIC_USEC": "9" * 18}, NOW),
        ({"__REALTIME_TIMESTAMP": "9" * 18}, SECOND),
        ({"__REALTIME_TIMESTAMP": None, "PROCWATCH_MONOTONIC_USEC": None}, 0),
    ],
)
def test_times_that_are_none(fields: dict[str, object], since: int) -> None:
    (life,) = Reader(entry("exec", 5, 100) | fields).living
    assert life.since_usec == since


def test_a_daemons_own_entry_is_about_no_process() -> None:
    lives = Lives()
    assert lives.take(entry("statistics", 5)) is None
    assert lives.take({}) is None
    assert lives.take(entry("exec", 5) | {"PROCWATCH_PID": "-5"}) is None
    assert lives.living == {}


PIDS = st.integers(1, 5)
STARTS = st.none() | st.integers(98, 102) | st.just("100.2")
NAMES = st.lists(st.builds("{}[{}]".format, st.sampled_from(["sh", "a\\x20b", "?"]), PIDS), max_size=4)
ENTRIES = st.builds(
    entry,
    st.sampled_from([*EVENTS, "exec", "exit", "exit", "start"]),
    PIDS,
    STARTS,
    st.integers(0, 10**9),
    boot=st.sampled_from(["one", "two", "three"]),
    host=st.sampled_from(["a", "b"]),
    ANCESTORS=NAMES.map(" ".join),
    PARENT_PROCESS_ID=st.builds("{}-{}".format, PIDS, st.integers(98, 102)) | st.just(""),
    PPID=st.integers(0, 5),
    DURATION_USEC=st.sampled_from(["", 5, 10**17, "9" * 30]),
    EXIT_CODE=st.sampled_from(["", 0, 1]),
)
ODD = st.dictionaries(
    st.sampled_from(
        [*(f"PROCWATCH_{name}" for name in ("PID", "PROCESS_ID", "TID", "ANCESTORS", "COMM")), "_BOOT_ID"]
    ),
    st.none()
    | st.integers()
    | st.text()
    | st.binary()
    | st.lists(st.integers())
    | st.sampled_from(["4", "5", "5-100"]),
    max_size=2,
)


@given(st.lists(st.tuples(ENTRIES, st.just({}) | ODD)), st.integers(1, 6))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_whatever_order_each_life_ends_once(
    entries: list[tuple[dict[str, Any], dict[str, Any]]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "LIVING_LIMIT", limit)
        patched.setattr(module, "ENDED_LIMIT", limit)
        patched.setattr(module, "BOOTS_LIMIT", limit)
        read = Reader(*(one | odd for one, odd in entries))
    assert len(read.living) <= limit
    assert len({id(life) for life in read.ended}) == len(read.ended)
    assert not any(life.until_usec is not None for life in read.living)
    assert all(life.until_usec is not None and life.until_usec >= life.since_usec >= 0 for life in read.ended)
    assert all(len(list(line(life))) <= module.LINE_LIMIT + 1 for life in read.living + read.ended)
    places = [(life.key[0], life.pid) for life in read.living]
    assert len(set(places)) == len(places)
