# SPDX-License-Identifier: MIT
"""One process from exec to exit: every field of its entries is what the test knows from /proc itself."""

from __future__ import annotations

import os
import re
import shlex
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.journal.kinds import MESSAGE_IDS
from tests.integration.actor import (
    Actor,
    ancestors_of,
    argv_of,
    comm_of,
    ids_of,
    process_id,
    stat_fields,
)
from tests.integration.running import Entry, RunningDaemon, of

PREFIX = "PROCWATCH_"
LOGINUID = "1000"

# What no file of /proc has; each has a check of its own.
TIMES = {"MONOTONIC_USEC", "LAG_USEC", "DURATION_USEC"}


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo terminal."""
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def unit(cgroups: Path) -> Iterator[Path]:
    """A cgroup that looks like a service in a slice."""
    slice_ = cgroups / f"marked{uuid.uuid4().hex[:8]}.slice"
    unit = slice_ / "marked-test.service"
    unit.mkdir(parents=True)
    yield unit
    unit.rmdir()
    slice_.rmdir()


def own_fields(entry: Entry) -> dict[str, object]:
    return {name.removeprefix(PREFIX): value for name, value in entry.items() if name.startswith(PREFIX)}


def truth(pid: int, unit: Path) -> dict[str, str]:
    """What an entry about this process has to say, from /proc as it is now."""
    parent = os.getpid()
    return {
        "PID": str(pid),
        "PPID": str(parent),
        "PROCESS_ID": process_id(pid),
        "PARENT_PROCESS_ID": process_id(parent),
        "COMM": comm_of(pid),
        "EXE": os.readlink(f"/proc/{pid}/exe"),
        "CWD": os.readlink(f"/proc/{pid}/cwd"),
        "TTY": os.readlink(f"/proc/{pid}/fd/0").removeprefix("/dev/"),
        **ids_of(pid),
        "LOGINUID": Path(f"/proc/{pid}/loginuid").read_text(),
        "AUDIT_SESSION": Path(f"/proc/{pid}/sessionid").read_text(),
        "SID": stat_fields(pid)[3].decode(),
        "CGROUP": f"/{unit.parent.name}/{unit.name}",
        "UNIT": unit.name,
        "SLICE": unit.parent.name,
        "PARENT_COMM": comm_of(parent),
        "PARENT_EXE": os.readlink(f"/proc/{parent}/exe"),
        "PARENT_CMDLINE": shlex.join(map(os.fsdecode, argv_of(parent))),
        "ANCESTORS": ancestors_of(pid),
        "IDENTITY": "same",
        "RULE": "decided",
        "TAGS": "first second",
    }


def check_kind(entry: Entry, kind: str, daemon: RunningDaemon) -> None:
    message_id = entry["MESSAGE_ID"]
    assert (message_id.hex if isinstance(message_id, uuid.UUID) else message_id) == MESSAGE_IDS[kind]
    assert str(entry["PRIORITY"]) == "5"
    assert entry["SYSLOG_IDENTIFIER"] == "procwatchd"
    assert entry.get("_PID", daemon.pid) == daemon.pid


def check_time(fields: dict[str, object], before_ns: int, after_ns: int) -> None:
    assert before_ns // 1000 <= int(str(fields["MONOTONIC_USEC"])) <= after_ns // 1000


def test_exec_and_exit_say_what_proc_says(
    each_output: RunningDaemon, steps: str, terminal: tuple[int, int], unit: Path, tmp_path: Path
) -> None:
    ours, theirs = terminal
    final = [steps, "note", "marked-by-a-rule", "note", "two words", "wait", "exit", "23"]
    first = [steps, "setsid", "ctty", "loginuid", LOGINUID, "gid", "65534", "uid", "65534", "wait", "exec"]
    with Actor(*first, *final, stdin=theirs, cwd=tmp_path) as actor:
        actor.reached()
        (unit / "cgroup.procs").write_text(str(actor.pid))
        before_ns = time.monotonic_ns()
        os.write(ours, b"\n")
        actor.reached()
        after_ns = time.monotonic_ns()
        expected = {**truth(actor.pid, unit), "CMDLINE": shlex.join(final)}
        _first, executed = each_output.wait_entries(of("exec", pid=actor.pid), 2)
        before_end_ns = time.monotonic_ns()
        os.write(ours, b"\n")
        actor.end()
    ended = each_output.wait_entry(of("exit", pid=actor.pid))

    check_kind(executed, "exec", each_output)
    fields = own_fields(executed)
    check_time(fields, before_ns, after_ns)
    if "arguments: proc" in each_output.config.read_text():
        source = {"SOURCE": "proc"}
        assert 0 <= int(str(fields["LAG_USEC"])) <= 10_000_000
    else:
        source = {"SOURCE": "recorder", "FILENAME": steps}
        assert "LAG_USEC" not in fields
    assert {name: value for name, value in fields.items() if name not in TIMES} == {
        "EVENT": "exec",
        **source,
        **expected,
    }
    parent = f"{comm_of(os.getpid())}[{os.getpid()}]"
    who = f"steps[{actor.pid}] {expected['USER']}"
    origin = f"({parent} {unit.name})"
    assert executed["MESSAGE"] == f"exec {who}: {expected['CMDLINE']} {origin}"

    check_kind(ended, "exit", each_output)
    fields = own_fields(ended)
    check_time(fields, before_end_ns, time.monotonic_ns())
    lifetime = int(str(fields["DURATION_USEC"]))
    assert (before_end_ns - after_ns) // 1000 <= lifetime
    # Of so short a life the kernel may know no CPU time.
    assert 0 < int(str(fields.pop("CPU_USEC", "1"))) < lifetime
    assert int(str(fields.pop("MEMORY_PEAK"))) > 100_000
    assert min(int(str(fields.pop(f"IO_{what}_BYTES"))) for what in ("READ", "WRITE")) >= 0
    assert {name: value for name, value in fields.items() if name not in TIMES} == {
        "EVENT": "exit",
        "SOURCE": "table",
        "EXIT_CODE": "23",
        "EXIT_SOURCE": "taskstats",
        **expected,
    }
    assert re.fullmatch(
        re.escape(f"exit {who}: code 23 after ")
        + r"[0-9.]+(us|ms|s)"
        + re.escape(f": {expected['CMDLINE']} {origin}"),
        ended["MESSAGE"],
    )


def test_what_does_not_apply_is_absent(each_output: RunningDaemon, steps: str) -> None:
    with Actor(steps, "setsid", "wait", "exec", steps, "wait") as actor:
        actor.pass_wait()
        actor.reached()
        _first, entry = each_output.wait_entries(of("exec", pid=actor.pid), 2)
        # Whoever runs the tests may have been logged in.
        loginuid = Path("/proc/self/loginuid").read_text()
        assert entry.get(f"{PREFIX}LOGINUID", "4294967295") == loginuid
    for name in ("TTY", "TID", "RULE", "TAGS", "EXIT_CODE", "EXIT_SIGNAL", "OLD_UID", "TRACER_PID", "SHA256"):
        assert PREFIX + name not in entry
    assert entry["PRIORITY"] in ("6", 6)


@pytest.mark.parametrize(
    ("option", "name", "field"),
    [("--mount", "mnt", "MOUNT_NAMESPACE"), ("--user", "user", "USER_NAMESPACE")],
)
def test_a_namespace_of_its_own_is_named(
    each_output: RunningDaemon, steps: str, option: str, name: str, field: str
) -> None:
    with Actor("unshare", option, steps, "wait") as actor:
        actor.reached()
        link = os.readlink(f"/proc/{actor.pid}/ns/{name}")
        entry = each_output.wait_entry(of("exec", pid=actor.pid, comm="steps"))
    assert entry[PREFIX + field] == link[link.index("[") + 1 : -1]
    assert {PREFIX + "MOUNT_NAMESPACE", PREFIX + "USER_NAMESPACE"} & entry.keys() == {PREFIX + field}


@pytest.mark.parametrize("limit", ["core", "no-core"])
def test_an_end_by_signal_is_told_as_the_parent_sees_it(
    each_output: RunningDaemon, steps: str, tmp_path: Path, limit: str
) -> None:
    with Actor(steps, limit, "signal", "11", cwd=tmp_path) as actor:
        status = actor.end()
    ended = each_output.wait_entry(of("exit", pid=actor.pid))
    assert ended[f"{PREFIX}EXIT_SIGNAL"] == "SIGSEGV"
    assert f"{PREFIX}EXIT_CODE" not in ended
    assert os.WCOREDUMP(status) == (ended.get(f"{PREFIX}CORE_DUMPED") == "1")
    assert limit == "core" or not os.WCOREDUMP(status)


def test_the_own_entries_name_no_process(each_output: RunningDaemon) -> None:
    start = each_output.wait_entry(of("start"))
    assert f"{PREFIX}PID" not in start
    assert int(start[f"{PREFIX}PROCESSES"]) > 1
