# SPDX-License-Identifier: MIT
"""Whose data an entry has: one PID with thousands of lives, parents that could be told wrong, and a busy start-up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.actor import Actor, ancestors_of, comm_of, process_id
from tests.integration.conftest import EVERYTHING, everything_by
from tests.integration.ledger import check_end
from tests.integration.running import Entry, RunningDaemon, about, of

PREFIX = "PROCWATCH_"
NS_PER_TICK = 10_000_000
PIPE_BYTES = 1 << 20

# As in helpers/reuse.c.
ROUNDS = 10_200
FIRST_UID = 100_000
CHILDREN = 48

# How often a daemon starts in the middle of it all, and how many processes each sees come and go.
STARTS = 3
ENDS_SEEN = 1500

Expected = dict[str, str | None]


def get(entry: Entry, name: str) -> str | None:
    value: str | None = entry.get(PREFIX + name)
    return value


def leaves_children(number: int) -> bool:
    return number % 96 == 95


def becomes_another(number: int) -> bool:
    return number % 4 < 2


@dataclass
class Story:
    """What the entries of one life have to say, in order."""

    now: Expected
    steps: list[Expected] = field(default_factory=list)

    def then(self, event: str, *, once: Expected | None = None, **changed: str) -> None:
        """One more entry; `once` is what it alone says."""
        self.now = {**self.now, **changed}
        self.steps.append({"EVENT": event, **self.now, **(once or {})})

    def takes_uid(self, number: int) -> None:
        uid = str(FIRST_UID + number)
        self.then("uid", once={"OLD_UID": "0", "OLD_EUID": "0"}, UID=uid, EUID=uid)

    def takes_name(self, name: str) -> None:
        self.then("comm", once={"OLD_COMM": self.now["COMM"]}, COMM=name)


def story_of(number: int, program: str, born: Expected) -> list[Expected]:
    """What helpers/reuse.c makes of a life of this number."""
    story = Story(born)
    story.then("fork")
    if number % 4 in (1, 2):
        story.takes_name(f"pre-{number}")
        story.takes_uid(number)
    if becomes_another(number):
        story.then("exec", COMM="reuse", CMDLINE=f"{program} life {number}")
    if number % 4 == 0 and number // 8 % 2:
        story.takes_uid(number)
        story.takes_name(f"post-{number}")
    story.then("exit", once={"EXIT_CODE": str(number % 200 + 1), "EXIT_SIGNAL": None})
    return story.steps


def differences(entries: list[Entry], expected: list[Expected]) -> list[str]:
    """Where the entries of a life say anything but what it did; what could not be read, they may leave out."""
    steps = expected
    last_name = expected[-1]["COMM"]
    if last_name in {get(entry, "COMM") for entry in entries if get(entry, "EVENT") == "exec"} - {"reuse"}:
        # It had its next name already when its exec was read: what changed after that is not known, or nothing.
        steps = [
            {**step, "COMM": last_name} | ({"OLD_COMM": None} if "OLD_COMM" in step else {})
            for step in expected
        ]
        steps[0] = expected[0]
        if "comm" not in {get(entry, "EVENT") for entry in entries}:
            steps = [step for step in steps if step["EVENT"] != "comm"]
    told, wanted = [get(entry, "EVENT") for entry in entries], [step["EVENT"] for step in steps]
    if told != wanted:
        return [f"{told} for {wanted}"]
    found = []
    unread: set[str] = set()
    for entry, step in zip(entries, steps, strict=True):
        if step["EVENT"] == "exec":
            unread = set() if get(entry, "IDENTITY") == "same" else {"COMM", "CMDLINE", "EXE", "OLD_COMM"}
        elif step["EVENT"] == "comm":
            unread -= {"COMM"}
        for name, value in step.items():
            if get(entry, name) != value and not (name in unread and get(entry, name) is None):
                found.append(f"{step['EVENT']} {name} {get(entry, name)} for {value}")
    return found


@contextlib.contextmanager
def busy_cpus(program: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            # Enough for nobody to find a CPU idle, and no more: others have a test to finish.
            stack.enter_context(Actor("nice", "-n", "10", program, "burn"))
        yield


def widen_pipe(daemon: RunningDaemon) -> None:
    """Let more wait for the reader, so that the daemon is not held up by it."""
    assert daemon.process.stdout is not None
    fcntl.fcntl(daemon.process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def stop_whole(daemon: RunningDaemon) -> None:
    """Have it end; all that happened is in its entries."""
    assert daemon.stop() == 0
    terms = check_end(daemon.entries[-1])
    assert terms["LOST"] == terms["UNWRITTEN"] == 0
    assert not daemon.having(lambda one: get(one, "EVENT") in ("loss", "blind", "resync"))


def start_ticks_of(entry: Entry) -> int:
    """The start in a PROCESS_ID."""
    return int(entry[f"{PREFIX}PROCESS_ID"].partition("-")[2].partition(".")[0])


def lives_of(entries: list[Entry]) -> list[list[Entry]]:
    """The entries on one PID by lives, in order of the forks.

    Where the tick went on between a start and its fork's time, the exec, which is read, corrects the id by one tick.
    """
    lives: list[list[Entry]] = []
    by_name: dict[str | None, list[Entry]] = {}
    corrected = 0
    for entry in entries:
        name = get(entry, "PROCESS_ID")
        if name not in by_name:
            if get(entry, "EVENT") == "fork":
                lives.append([])
            else:
                assert get(entry, "EVENT") == "exec", entry
                assert start_ticks_of(lives[-1][0]) == start_ticks_of(entry) + 1, (lives[-1], entry)
                corrected += 1
            by_name[name] = lives[-1]
        by_name[name].append(entry)
    assert corrected <= len(lives) // 200
    return lives


@dataclass
class Reused:
    """The lives of `reuse`: by number, the entries about each; its own PID and PROCESS_ID; and all entries."""

    program: str
    pid: int
    process_id: str
    lives: dict[int, list[Entry]]
    entries: list[Entry]


@pytest.fixture(scope="module", params=["recorder", "proc"])
def reused(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, helpers: Path) -> Reused:
    program = str(helpers / "reuse")
    with (
        RunningDaemon(tmp_path_factory.mktemp("reuse"), everything_by(request.param)) as daemon,
        busy_cpus(program),
        Actor("nice", "-n", "-10", program, str(ROUNDS)) as actor,
    ):
        widen_pipe(daemon)
        # What it forks inherits what is known of it.
        daemon.wait_entry(of("exec", pid=actor.pid, comm="reuse", identity="same"))
        own_id = process_id(actor.pid)
        actor.go()
        assert actor.process.stdout is not None
        ranges = [tuple(map(int, line.split())) for line in actor.process.stdout]
        assert actor.end() == 0
        stop_whole(daemon)
    lives: dict[int, list[Entry]] = {}
    for (first, pid), (end, _pid) in zip(ranges, [*ranges[1:], (ROUNDS, 0)], strict=True):
        # The first one came and went to find the PID.
        of_pid = lives_of(daemon.having(about(pid)))[1:]
        lives |= dict(zip(range(first, end), of_pid, strict=True))
    return Reused(program, actor.pid, own_id, lives, daemon.entries)


def test_no_life_is_told_of_another(reused: Reused) -> None:
    """Each entry of a life has that one's arguments, name, ids and code; it begins once and ends once."""
    ancestors = f"reuse[{reused.pid}] {comm_of(os.getpid())}[{os.getpid()}] {ancestors_of(os.getpid())}"
    own = {"PPID": str(reused.pid), "PARENT_PROCESS_ID": reused.process_id, "ANCESTORS": ancestors.rstrip()}
    whose = {
        "UID": "0",
        "EUID": "0",
        "COMM": "reuse",
        "CMDLINE": f"{reused.program} {ROUNDS}",
        "EXE": reused.program,
    }
    wrong = {
        number: found
        for number, entries in reused.lives.items()
        if (found := differences(entries, story_of(number, reused.program, {**own, **whose})))
    }
    assert not wrong


def test_a_life_that_stays_is_known(reused: Reused) -> None:
    """Mostly: else the other tests are of nothing."""
    execed = {number: entries for number, entries in reused.lives.items() if becomes_another(number)}
    told = [number for number, entries in execed.items() if get(entries[-1], "CMDLINE")]
    assert len(told) > len(execed) // 10


def test_the_start_in_an_id_is_the_lifes_own(reused: Reused) -> None:
    """By the time of its fork, which is told a moment after the start was taken."""
    boottime_offset_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    for number, entries in reused.lives.items():
        forked_ns = int(entries[0][f"{PREFIX}MONOTONIC_USEC"]) * 1000 + boottime_offset_ns
        assert forked_ns // NS_PER_TICK - start_ticks_of(entries[0]) in (-1, 0, 1), (number, entries[0])


def test_a_life_ended_while_the_next_one_had_begun(reused: Reused) -> None:
    """What `reuse` does for this comes off, where there is another CPU; that nothing is mixed up by it, others test."""
    ends = {number: int(entries[-1][f"{PREFIX}MONOTONIC_USEC"]) for number, entries in reused.lives.items()}
    begins = {number: int(entries[0][f"{PREFIX}MONOTONIC_USEC"]) for number, entries in reused.lives.items()}
    overlapping = [number for number in begins if number and begins[number] < ends[number - 1]]
    assert overlapping or os.cpu_count() == 1


def test_children_are_those_of_the_life_that_forked_them(reused: Reused) -> None:
    children: defaultdict[str | None, Counter[str | None]] = defaultdict(Counter)
    for entry in reused.entries:
        children[get(entry, "PARENT_PROCESS_ID")][get(entry, "EVENT")] += 1
    for number, entries in reused.lives.items():
        expected = {"fork": CHILDREN, "exit": CHILDREN} if leaves_children(number) else {}
        assert children.get(get(entries[0], "PROCESS_ID"), {}) == expected, number


@dataclass
class Family:
    """Who takes part in what `kin` does: PIDs, 0 for who is not there."""

    kin: int
    middle: int
    child: int
    adopter: int


def family(actor: Actor) -> Family:
    assert actor.process.stdout is not None
    middle, child, adopter = map(int, actor.process.stdout.readline().split())
    assert actor.end() == 0
    return Family(actor.pid, middle, child, adopter)


def check_parent(daemon: RunningDaemon, pid: int, chain: list[str], steps: list[str]) -> None:
    """All entries on a process name this line of ancestors, from the parent on, and its one end is the last."""
    parent = chain[0].rpartition("[")
    for one in (pid, int(parent[2].rstrip("]"))):
        daemon.wait_entry(of("exit", pid=one))
    entries = daemon.having(about(pid))
    assert [get(entry, "EVENT") for entry in entries] == steps
    above = [f"{comm_of(os.getpid())}[{os.getpid()}]", ancestors_of(os.getpid())]
    parent_ids = {get(one, "PROCESS_ID") for one in daemon.having(about(int(parent[2].rstrip("]"))))}
    for entry in entries:
        assert get(entry, "ANCESTORS") == " ".join(chain + above).rstrip(), entry
        assert get(entry, "PPID") == parent[2].rstrip("]")
        assert get(entry, "PARENT_COMM") == parent[0]
        assert {get(entry, "PARENT_PROCESS_ID")} == parent_ids
    assert get(entries[-1], "EXIT_CODE") == ("21" if "exec" in steps else "22")


CHILD_STEPS = ["fork", "comm", "exec", "exit"]
MIDDLE_STEPS = ["fork", "comm", "comm", "exit"]


def kin(helpers: Path, *arguments: str) -> Actor:
    return Actor(str(helpers / "kin"), *arguments)


def test_a_child_of_a_thread_is_the_processs(everything: RunningDaemon, helpers: Path) -> None:
    with kin(helpers, "from-thread") as actor:
        found = family(actor)
    check_parent(everything, found.child, [f"kin[{found.kin}]"], CHILD_STEPS)


@pytest.mark.parametrize("kind", ["clone-parent", "clone-parent-from-thread"])
def test_clone_parent_makes_a_brother(everything: RunningDaemon, helpers: Path, kind: str) -> None:
    with kin(helpers, kind) as actor:
        found = family(actor)
    check_parent(everything, found.child, [f"kin[{found.kin}]"], CHILD_STEPS)
    everything.wait_entry(of("exit", pid=found.middle, exit_code=22))


@pytest.mark.parametrize("kind", ["subreaper", "init"])
def test_who_is_adopted_keeps_the_parent_it_was_born_to(
    everything: RunningDaemon, helpers: Path, kind: str
) -> None:
    with kin(helpers, kind, "wait") as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        found = family(actor)
    assert found.adopter not in (0, found.middle)
    assert (found.adopter == found.kin) == (kind == "subreaper")
    check_parent(everything, found.middle, [f"kin[{found.kin}]"], MIDDLE_STEPS)
    # The middle one has its later name only since.
    check_parent(everything, found.child, [f"middle[{found.middle}]", f"kin[{found.kin}]"], CHILD_STEPS)


@pytest.mark.parametrize("kind", ["subreaper", "init"])
def test_who_was_there_before_keeps_its_parent(tmp_path: Path, helpers: Path, kind: str) -> None:
    """Adopted only after the daemon has started, by which time the parent was the one that it was born to."""
    with kin(helpers, kind, "wait") as actor:
        actor.reached()
        with RunningDaemon(tmp_path, EVERYTHING) as daemon:
            actor.go()
            found = family(actor)
            check_parent(daemon, found.middle, [f"kin[{found.kin}]"], MIDDLE_STEPS[2:])
            check_parent(
                daemon, found.child, [f"middle[{found.middle}]", f"kin[{found.kin}]"], CHILD_STEPS[1:]
            )


@pytest.mark.parametrize("arguments", ["recorder", "proc"])
def test_an_exec_that_a_tracer_holds_is_not_taken_for_the_one_before(
    tmp_path: Path, helpers: Path, arguments: str
) -> None:
    """While it is held, /proc has the new arguments, and no event says so."""
    program = str(helpers / "held")
    with RunningDaemon(tmp_path, everything_by(arguments)) as daemon, Actor(program) as actor:
        actor.reached()
        daemon.process.send_signal(signal.SIGSTOP)
        actor.go()
        actor.reached()
        daemon.process.send_signal(signal.SIGCONT)
        first = daemon.wait_entry(of("exec", ppid=actor.pid))
        actor.go()
        assert os.waitstatus_to_exitcode(actor.end()) == 3
        second = daemon.wait_entries(of("exec", ppid=actor.pid), 2)[1]
    unread = () if arguments == "recorder" else (None,)
    assert get(first, "CMDLINE") in (f"{program} first", *unread), first
    assert get(second, "CMDLINE") == f"{program} second"


@dataclass
class Churned:
    """One process that `churn` forked; `until_ns` is 0 for those that ended at once, -1 for those that stayed."""

    number: int
    pid: int
    start_ticks: int
    forked_ns: int
    until_ns: int

    @property
    def becomes_another(self) -> bool:
        return bool(self.number % 2 if self.until_ns < 0 else self.number % 3 == 0)

    def ends_after(self, time_ns: int) -> bool:
        return self.until_ns < 0 or max(self.forked_ns, self.until_ns) > time_ns


def wrongs_of(one: Churned, entries: list[Entry], ready_ns: int, program: str) -> Iterator[str]:
    """What is wrong about the entries on a process."""
    events = Counter(get(entry, "EVENT") for entry in entries)
    is_new = one.forked_ns > ready_ns
    least = {"fork": is_new, "exec": is_new and one.becomes_another, "exit": one.ends_after(ready_ns)}
    most = {"fork": 1, "exec": int(one.becomes_another), "exit": 1}
    for event, count in events.items():
        if event not in most or count > most[event]:
            yield f"{count} times {event}"
    yield from (f"no {event}" for event, needed in least.items() if needed and not events[event])
    for entry in entries:
        if get(entry, "EVENT") == "exit" and get(entry, "EXIT_CODE") != str(one.number % 200 + 1):
            yield f"exit code {get(entry, 'EXIT_CODE')}"
        cmdline = get(entry, "CMDLINE") or ""
        if cmdline not in ("", program) and not cmdline.startswith(
            f"{program} stay {one.number} {one.until_ns} "
        ):
            yield f"{get(entry, 'EVENT')} with {cmdline}"


@pytest.mark.parametrize("_start", range(STARTS))
def test_a_start_amid_processes_that_come_and_go(tmp_path: Path, helpers: Path, _start: int) -> None:
    program = str(helpers / "churn")
    with Actor(program) as actor:
        actor.reached()
        with RunningDaemon(tmp_path, EVERYTHING) as daemon:
            ready_ns = time.monotonic_ns()
            widen_pipe(daemon)
            daemon.wait_entries(of("exit", ppid=actor.pid), ENDS_SEEN)
            actor.go()
            assert actor.process.stdout is not None
            processes = [Churned(*map(int, line.split())) for line in actor.process.stdout]
            assert actor.end() == 0
            stop_whole(daemon)
    by_id: dict[str | None, list[Entry]] = {}
    for entry in daemon.having(lambda one: get(one, "PPID") == str(actor.pid)):
        by_id.setdefault(get(entry, "PROCESS_ID"), []).append(entry)
    wrong = {}
    for one in processes:
        entries = by_id.pop(f"{one.pid}-{one.start_ticks}", [])
        late = by_id.get(f"{one.pid}-{one.start_ticks + 1}", [])
        if late and {get(entry, "SOURCE") for entry in late} == {"inherited"}:
            # Who was seen at its fork alone may have the tick after its own.
            entries = by_id.pop(get(late[0], "PROCESS_ID")) + entries
        if found := list(wrongs_of(one, entries, ready_ns, program)):
            wrong[one.number] = found
    assert not wrong
    assert not by_id
    assert [one for one in processes if one.forked_ns > ready_ns]
    assert [one for one in processes if one.forked_ns < ready_ns and one.ends_after(ready_ns)]
