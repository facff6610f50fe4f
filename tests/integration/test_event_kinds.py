# SPDX-License-Identifier: MIT
"""Each kind of event that the kernel sends, made for real; and which life and which parent it is told of."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from tests.integration.actor import Actor, process_id
from tests.integration.conftest import EVERYTHING
from tests.integration.running import Entry, RunningDaemon, Wanted, about, of

PREFIX = "PROCWATCH_"
THREAD_COMM = "thread-name"
# How often a race is run that is lost now and then.
ROUNDS = 200


def field(entry: Entry, name: str) -> str | None:
    value: str | None = entry.get(PREFIX + name)
    return value


def picked(entry: Entry, *names: str) -> dict[str, str | None]:
    return {name: field(entry, name) for name in names}


def whole_exit(pid: int) -> Wanted:
    """Tells the entry on the end of the process, not of a thread of it."""
    return lambda entry: of("exit", pid=pid)(entry) and field(entry, "TID") is None


def lives(daemon: RunningDaemon, pid: int) -> list[str | None]:
    """The kinds of all entries about a process, in order."""
    return [field(entry, "EVENT") for entry in daemon.having(about(pid))]


def test_a_child_inherits_what_its_parent_was(everything: RunningDaemon, steps: str) -> None:
    arguments = ("wait", "comm", "parent-then", "fork", "comm", "parent-later")
    with Actor(steps, *arguments) as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        actor.end()
    ended = everything.wait_entry(of("exit", ppid=actor.pid))
    pid = int(ended["PROCWATCH_PID"])
    forked = everything.wait_entry(of("fork", pid=pid))
    everything.wait_entry(of("exit", pid=actor.pid))
    cmdline = f"{steps} {' '.join(arguments)}"
    for entry in (forked, ended):
        assert picked(entry, "COMM", "PARENT_COMM", "CMDLINE", "PARENT_CMDLINE", "EXE", "SOURCE") == {
            "COMM": "parent-then",
            "PARENT_COMM": "parent-then",
            "CMDLINE": cmdline,
            "PARENT_CMDLINE": cmdline,
            "EXE": steps,
            "SOURCE": "inherited",
        }
    assert field(ended, "EXIT_CODE") == "0"
    assert lives(everything, pid) == ["fork", "exit"]


def test_a_setuid_programs_new_ids_are_its_own(everything: RunningDaemon, steps: str) -> None:
    setuid = f"{steps}-setuid"
    shutil.copy(steps, setuid)
    os.chmod(setuid, 0o4755)
    try:
        with Actor(steps, "wait", "uid", "65534", "exec", setuid, "wait", "exit", "3") as actor:
            actor.pass_wait()
            actor.pass_wait()
            assert actor.end() == 3 << 8
    finally:
        os.unlink(setuid)
    everything.wait_entry(of("exit", pid=actor.pid))
    own, by_exec = everything.having(of("uid", pid=actor.pid))
    assert picked(own, "EXE", "OLD_EUID", "EUID") == {"EXE": steps, "OLD_EUID": "0", "EUID": "65534"}
    assert picked(by_exec, "EXE", "OLD_EUID", "EUID", "UID", "IDENTITY", "SOURCE") == {
        "EXE": setuid,
        "OLD_EUID": "65534",
        "EUID": "0",
        "UID": "65534",
        "IDENTITY": "same",
        "SOURCE": "table",
    }
    execs = everything.having(of("exec", pid=actor.pid))
    assert picked(execs[-1], "EXE", "EUID", "UID") == {"EXE": setuid, "EUID": "0", "UID": "65534"}


def test_ids_before_and_after(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "gid", "65534", "euid", "65534", "euid", "0", "uid", "65534", "uid", "65534") as actor:
        actor.end()
    everything.wait_entry(of("exit", pid=actor.pid))
    (gid,) = everything.having(of("gid", pid=actor.pid))
    assert picked(gid, "OLD_GID", "OLD_EGID", "GID", "EGID") == {
        "OLD_GID": "0",
        "OLD_EGID": "0",
        "GID": "65534",
        "EGID": "65534",
    }
    # The last one changed nothing.
    changes = everything.having(of("uid", pid=actor.pid))
    names = ("OLD_UID", "OLD_EUID", "UID", "EUID")
    assert [[field(entry, name) for name in names] for entry in changes] == [
        ["0", "0", "0", "65534"],
        ["0", "65534", "0", "0"],
        ["0", "0", "65534", "65534"],
    ]
    assert field(changes[-1], "USER") == "nobody"


def test_a_new_session(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "setsid", "wait") as actor:
        actor.reached()
        entry = everything.wait_entry(of("sid", pid=actor.pid))
        assert field(entry, "SID") == str(os.getsid(actor.pid))


def test_a_new_name(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "wait", "comm", "new name") as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        actor.end()
    entry = everything.wait_entry(of("comm", pid=actor.pid))
    assert picked(entry, "OLD_COMM", "COMM") == {"OLD_COMM": "steps", "COMM": "new name"}


def test_a_tracer_comes_and_goes(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "wait", "trace") as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        actor.end()
    attached = everything.wait_entry(of("ptrace", ppid=actor.pid))
    pid = int(attached["PROCWATCH_PID"])
    assert picked(attached, "TRACER_PID", "TRACER_COMM", "TRACER_EXE") == {
        "TRACER_PID": str(actor.pid),
        "TRACER_COMM": "steps",
        "TRACER_EXE": steps,
    }
    ended = everything.wait_entry(of("exit", pid=pid))
    assert field(ended, "EXIT_SIGNAL") == "SIGKILL"
    assert lives(everything, pid) == ["fork", "ptrace", "ptrace", "exit"]
    detached = everything.having(of("ptrace", pid=pid))[1]
    assert not [name for name in detached if name.startswith("PROCWATCH_TRACER")]


def test_a_core_dump(everything: RunningDaemon, steps: str, tmp_path: Path) -> None:
    with Actor(steps, "core", "signal", str(int(signal.SIGABRT)), cwd=tmp_path) as actor:
        status = actor.end()
    ended = everything.wait_entry(of("exit", pid=actor.pid))
    assert lives(everything, actor.pid) == ["fork", "exec", "coredump", "exit"]
    assert field(ended, "EXIT_SIGNAL") == "SIGABRT"
    assert os.WCOREDUMP(status) == (field(ended, "CORE_DUMPED") == "1")


def test_a_thread_comes_and_goes(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "thread", "wait", "exit", "4") as actor:
        actor.reached()
        gone = everything.wait_entry(of("exit", pid=actor.pid))
        actor.go()
        actor.end()
    ended = everything.wait_entry(whole_exit(actor.pid))
    assert field(ended, "EXIT_CODE") == "4"
    of_thread = everything.having(lambda one: about(actor.pid)(one) and bool(field(one, "TID")))
    assert [field(entry, "EVENT") for entry in of_thread] == ["fork", "exit"]
    assert {field(entry, "TID") for entry in of_thread} == {field(gone, "TID")} != {str(actor.pid)}
    assert {field(entry, "PPID") for entry in of_thread} == {str(os.getpid())}


def test_the_status_is_the_one_the_parent_sees(everything: RunningDaemon, steps: str) -> None:
    """A thread that was about to end by itself, with 0, may be the last to end."""
    statuses = {}
    for number in range(ROUNDS):
        with Actor(steps, "threads", "exit", str(number % 200 + 1)) as actor:
            statuses[actor.pid] = os.waitstatus_to_exitcode(actor.end())
    for pid, status in statuses.items():
        assert field(everything.wait_entry(whole_exit(pid)), "EXIT_CODE") == str(status)


def test_a_threads_name_is_not_its_processs(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "in-thread", "wait", "comm", THREAD_COMM, "exit", "0") as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        actor.end()
    renamed = everything.wait_entry(of("comm", pid=actor.pid))
    assert field(renamed, "COMM") == THREAD_COMM
    assert field(renamed, "TID") not in (None, str(actor.pid))
    ended = everything.wait_entry(whole_exit(actor.pid))
    assert field(ended, "COMM") == "steps"


def test_exec_from_another_thread_is_one_life(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "in-thread", "exec", steps, "note", "after", "wait", "exit", "5") as actor:
        actor.reached()
        _before, after = everything.wait_entries(of("exec", pid=actor.pid), 2)
        assert field(after, "CMDLINE") == f"{steps} note after wait exit 5"
        assert field(after, "PROCESS_ID") == process_id(actor.pid)
        actor.go()
        actor.end()
    (ended,) = everything.wait_entries(whole_exit(actor.pid), 1)
    assert picked(ended, "EXIT_CODE", "CMDLINE", "PROCESS_ID", "IDENTITY") == {
        "EXIT_CODE": "5",
        "CMDLINE": field(after, "CMDLINE"),
        "PROCESS_ID": field(after, "PROCESS_ID"),
        "IDENTITY": "same",
    }


def test_a_leader_that_ends_first_is_not_the_end(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "leader-ends", "wait", "exit", "3") as actor:
        actor.reached()
        leader = everything.wait_entry(of("exit", pid=actor.pid, tid=actor.pid))
        actor.go()
        status = actor.end()
    ended = everything.wait_entry(whole_exit(actor.pid))
    assert field(ended, "EXIT_CODE") == str(os.waitstatus_to_exitcode(status)) == "3"
    assert int(ended["PROCWATCH_MONOTONIC_USEC"]) > int(leader["PROCWATCH_MONOTONIC_USEC"])
    assert everything.having(whole_exit(actor.pid)) == [ended]


def test_an_orphan_keeps_the_parent_it_was_born_to(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "wait", "orphan", "wait", "exit", "6") as actor:
        everything.wait_entry(of("exec", pid=actor.pid))
        actor.pass_wait()
        actor.end()
        actor.reached()
        everything.wait_entry(of("exit", pid=actor.pid))
        pid = int(everything.wait_entry(of("fork", ppid=actor.pid))["PROCWATCH_PID"])
        actor.go()
        ended = everything.wait_entry(of("exit", pid=pid))
    assert picked(ended, "PPID", "PARENT_COMM", "EXIT_CODE") == {
        "PPID": str(actor.pid),
        "PARENT_COMM": "steps",
        "EXIT_CODE": "6",
    }
    assert ended["PROCWATCH_ANCESTORS"].startswith(f"steps[{actor.pid}] ")


def test_who_ran_before_the_daemon_is_known_at_the_end(tmp_path: Path, steps: str) -> None:
    with Actor(steps, "note", "early", "wait", "exit", "7") as actor, Actor(steps, "wait") as other:
        actor.reached()
        other.reached()
        started = process_id(actor.pid)
        with RunningDaemon(tmp_path, EVERYTHING) as daemon:
            actor.go()
            actor.end()
            ended = daemon.wait_entry(of("exit", pid=actor.pid))
    assert picked(ended, "CMDLINE", "SOURCE", "IDENTITY", "PROCESS_ID", "EXIT_CODE", "PPID") == {
        "CMDLINE": f"{steps} note early wait exit 7",
        "SOURCE": "table",
        "IDENTITY": "same",
        "PROCESS_ID": started,
        "EXIT_CODE": "7",
        "PPID": str(os.getpid()),
    }
    # The kernel knows since when, though nobody told of its fork.
    assert int(ended["PROCWATCH_DURATION_USEC"]) > 0


def test_without_threads_they_leave_no_entry(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, "capture: {events: all}") as daemon:
        with Actor(steps, "thread", "leader-ends", "comm", THREAD_COMM, "exit", "8") as actor:
            actor.end()
        ended = daemon.wait_entry(of("exit", pid=actor.pid))
        assert field(ended, "EXIT_CODE") == "8"
        assert lives(daemon, actor.pid) == ["fork", "exec", "exit"]
        assert not daemon.having(lambda one: "PROCWATCH_TID" in one)


def test_the_next_exec_of_a_process_is_never_told_of_the_first(everything: RunningDaemon, steps: str) -> None:
    """As `env program` does: where the first is over before it can be read, its entry says less, but never wrong."""
    pids = []
    for number in range(ROUNDS):
        with Actor(steps, "note", f"first-{number}", "exec", steps, "note", f"second-{number}") as actor:
            actor.end()
        pids.append(actor.pid)
    everything.wait_entry(of("exit", pid=pids[-1]))
    for number, pid in enumerate(pids):
        first, second = everything.having(of("exec", pid=pid))
        told = first.get("PROCWATCH_CMDLINE")
        assert told is None or told.startswith(f"{steps} note first-{number} "), first
        told = second.get("PROCWATCH_CMDLINE")
        assert told in (None, f"{steps} note second-{number}"), second


def test_the_daemon_sees_nothing_of_itself(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps) as actor:
        pass
    everything.wait_entry(of("exit", pid=actor.pid))
    assert not everything.having(about(everything.pid))
    # Nor are its threads another process's.
    tasks = {task.name for task in Path(f"/proc/{everything.pid}/task").iterdir()}
    assert len(tasks) > 2
    assert not everything.having(lambda one: one.get("PROCWATCH_TID") in tasks)
