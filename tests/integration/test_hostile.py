# SPDX-License-Identifier: MIT
"""Whatever a process calls itself: one entry each, truthful, that forges nothing and does nothing to a terminal."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.process.fields import ENTRY_ONLY, FIELDS
from tests.integration.actor import Actor
from tests.integration.conftest import EVERYTHING
from tests.integration.journald import PrivateJournald
from tests.integration.running import Entry, RunningDaemon, of

PREFIX = "PROCWATCH_"
MAX_ARGV = 4096
KNOWN = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER"} | {
    PREFIX + name for name in {*FIELDS, *ENTRY_ONLY, "TAGS"}
}

COMMS = [
    b") R 1 (",
    b"new\nline",
    b"\n",
    b"\x1b[31mred\x1b[m",
    b"\xff\xfe\x80",
    b"",
    b"a\tb\rc",
    b"\nPRIORITY=0\nX=",
    b"12345678901234\xc3",  # a character cut in two by the kernel
]

ARGVS = [
    [b"new\nline", b"\n", b"\r\n"],
    [b"\x1b]0;title\x07", b"\x1b[2J", b"\x9b31m"],
    [b"\xff\xfe", b"\xc3", b"gr\xc3\xbcn", b"\xe2\x80\xae\xe2\x80\x8b"],
    [b"", b"", b"end", b""],
    [b"\nPROCWATCH_UID=0\n_UID=0\nMESSAGE=forged\n", b"\n\nMESSAGE=forged\n"],
    [b"'", b'"', b"$(id)", b"`id`", b"\\", b"!x", b"*", b"~", b"#", b"a=b", b"{a,b}"],
]

FILE_NAMES = [b"\nPROCWATCH_UID=0", b") R 1 (", b"\x1b[2J\xff", b" (deleted)"]

CGROUPS = [b"odd \xff\x1b[1m.service", b"0::", b"a:b=c.scope", b"esc\\x2dname.service"]


@pytest.fixture(scope="module")
def text() -> Iterator[RunningDaemon]:
    """A daemon that logs everything as lines for people."""
    with (
        tempfile.TemporaryDirectory(prefix="procwatchd-") as directory,
        RunningDaemon(Path(directory), EVERYTHING, output="text") as daemon,
    ):
        yield daemon


@pytest.fixture
def big_stack() -> Iterator[None]:
    """Arguments may take a quarter of the stack's limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def raw(entry: Entry, name: str) -> bytes:
    value = entry[PREFIX + name]
    return value.encode() if isinstance(value, str) else bytes(value)


def check_clean(entry: Entry) -> None:
    """Nothing forged, nothing for a terminal to obey; the user is who it is, whatever the process says."""
    for name in (
        "MESSAGE",
        *(PREFIX + one for one in ("CMDLINE", "PARENT_CMDLINE") if PREFIX + one in entry),
    ):
        assert isinstance(entry[name], str)
        assert entry[name].isprintable(), entry[name]
    assert {name for name in entry if not name.startswith("_")} <= KNOWN
    assert entry[PREFIX + "UID"] == "65534"


def the_one(daemon: RunningDaemon, event: str, pid: int) -> Entry:
    daemon.wait_entry(of(event, pid=pid))
    (entry,) = daemon.having(of(event, pid=pid))
    check_clean(entry)
    return entry


def as_bash_reads_it(cmdline: str) -> list[bytes]:
    script = f"printf '%s\\0' {cmdline}"
    printed = subprocess.run(["/bin/bash", "-c", script], check=True, stdout=subprocess.PIPE).stdout
    return printed.removesuffix(b"\0").split(b"\0")


def run_as_nobody(*command: str | bytes) -> Actor:
    return Actor(*command, user=65534, group=65534)


@pytest.mark.parametrize("comm", COMMS)
def test_names(each_output: RunningDaemon, steps: str, comm: bytes) -> None:
    with run_as_nobody(steps, "wait", "comm", comm, "fork", "exit", "1") as actor:
        actor.reached()
        the_one(each_output, "exec", actor.pid)
        actor.go()
        actor.end()
    kernels = comm[:15]
    ended = the_one(each_output, "exit", actor.pid)
    assert raw(ended, "COMM") == kernels
    assert ended[PREFIX + "EXIT_CODE"] == "1"
    renamed = the_one(each_output, "comm", actor.pid)
    assert (raw(renamed, "COMM"), raw(renamed, "OLD_COMM")) == (kernels, b"steps")
    forked = each_output.wait_entry(of("fork", ppid=actor.pid))
    check_clean(forked)
    assert raw(forked, "PARENT_COMM") == kernels
    # An empty name is a name, and what could be taken for another one's end is escaped.
    shown = re.sub(rb"[\x00-\x20\[\]\\\x7f]", lambda found: b"\\x%02x" % found[0][0], kernels)
    assert raw(forked, "ANCESTORS").startswith(b"%b[%d] " % (shown, actor.pid))


@pytest.mark.parametrize("argv", ARGVS)
def test_arguments(each_output: RunningDaemon, steps: str, argv: list[bytes]) -> None:
    notes = [part for argument in argv for part in (b"note", argument)]
    with run_as_nobody(steps, *notes, "wait") as actor:
        actor.reached()
        executed = the_one(each_output, "exec", actor.pid)
        actor.go()
        actor.end()
    ended = the_one(each_output, "exit", actor.pid)
    for entry in (executed, ended):
        assert as_bash_reads_it(entry[PREFIX + "CMDLINE"]) == [steps.encode(), *notes, b"wait"]
        assert PREFIX + "ARGV_TRUNCATED" not in entry


def test_no_arguments_at_all(each_output: RunningDaemon, steps: str) -> None:
    with run_as_nobody(steps, "wait", "exec-bare", steps) as actor:
        actor.pass_wait()
        actor.reached()
        _first, executed = each_output.wait_entries(of("exec", pid=actor.pid), 2)
        check_clean(executed)
        assert raw(executed, "EXE") == steps.encode()
        # The kernel gives such a program one empty argument.
        assert executed[PREFIX + "CMDLINE"] == "''"


@pytest.mark.usefixtures("big_stack")
def test_two_mebibytes_of_arguments(each_output: RunningDaemon, steps: str) -> None:
    filler = [part for number in range(1060) for part in ("note", f"{number:04}" + "x" * 2000)]
    argv = [steps, "note", "the-head", *filler, "note", "the-tail", "wait"]
    size = sum(len(argument) + 1 for argument in argv)
    assert size > 2 << 20
    with run_as_nobody(*argv) as actor:
        actor.reached()
        executed = the_one(each_output, "exec", actor.pid)
        actor.go()
        actor.end()
    ended = the_one(each_output, "exit", actor.pid)
    for entry in (executed, ended):
        assert entry[PREFIX + "ARGV_TRUNCATED"] == "1"
        assert entry[PREFIX + "ARGV_BYTES"] == str(size)
        found = re.fullmatch(r"(.*) \[…([0-9]+) bytes…\] (.*)", entry[PREFIX + "CMDLINE"])
        assert found is not None
        head, left_out, tail = found.groups()
        assert head.startswith(f"{steps} note the-head note 0000")
        assert tail.endswith("note the-tail wait")
        shown = size - int(left_out)
        assert MAX_ARGV - 16 <= shown <= MAX_ARGV
        # What stands between arguments is one byte in either form.
        assert shown - 3 <= len(head) + len(tail) <= shown


@pytest.mark.parametrize("name", FILE_NAMES)
def test_file_names(each_output: RunningDaemon, steps: str, name: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="procwatchd-") as directory:
        Path(directory).chmod(0o755)
        path = directory.encode() + b"/" + name
        shutil.copy(os.fsencode(steps), path)
        with run_as_nobody(path, "wait", "fork") as actor:
            actor.reached()
            executed = the_one(each_output, "exec", actor.pid)
            actor.go()
            actor.end()
    ended = the_one(each_output, "exit", actor.pid)
    for entry in (executed, ended):
        assert raw(entry, "EXE") == path
        assert raw(entry, "COMM") == name[:15]
        assert as_bash_reads_it(entry[PREFIX + "CMDLINE"])[0] == path


@pytest.mark.parametrize("name", CGROUPS)
def test_cgroup_names(each_output: RunningDaemon, steps: str, cgroups: Path, name: bytes) -> None:
    cgroup = os.fsencode(cgroups) + b"/" + name
    os.mkdir(cgroup)
    try:
        with run_as_nobody(steps, "wait", "exec", steps, "wait") as actor:
            actor.reached()
            Path(os.fsdecode(cgroup) + "/cgroup.procs").write_text(str(actor.pid))
            actor.go()
            actor.reached()
            _first, executed = each_output.wait_entries(of("exec", pid=actor.pid), 2)
            check_clean(executed)
            assert raw(executed, "CGROUP") == b"/" + name
            is_unit = name.startswith(b"esc")
            assert (PREFIX + "UNIT" in executed) == is_unit
            assert raw(executed, "SLICE") == b"-.slice"
    finally:
        os.rmdir(cgroup)


def test_as_text_each_entry_is_one_clean_line(text: RunningDaemon, steps: str) -> None:
    pids = []
    for comm, argv in zip(COMMS, [*ARGVS, *ARGVS], strict=False):
        notes = [part for argument in argv for part in (b"note", argument)]
        with run_as_nobody(steps, *notes, "wait", "comm", comm, "wait") as actor:
            text.wait_line(b"exec steps[%d] nobody: " % actor.pid)
            actor.pass_wait()
            actor.reached()
        pids.append(actor.pid)
    for pid in pids:
        text.wait_line(b"[%d] nobody: killed by SIGKILL" % pid)
        about = [line for line in text.lines if b"[%d] nobody: " % pid in line]
        kinds = [line.split(b" ", 4)[3] for line in about]
        assert [kind for kind in kinds if kind in (b"exec", b"comm", b"exit")] == [b"exec", b"comm", b"exit"]
    for line in text.lines:
        assert line.endswith(b"\n")
        assert line[:-1].decode().isprintable(), line


def test_json_lines_have_the_form_that_journalctl_gives(
    journald: PrivateJournald, tmp_path: Path, steps: str
) -> None:
    program = b"/bin/\xff\nPROCWATCH_UID=0"
    command = [steps.encode(), b"note", program, b"wait", b"comm", b"\xff\nx"]
    with (
        RunningDaemon(tmp_path / "json", EVERYTHING) as as_json,
        RunningDaemon(tmp_path / "journal", EVERYTHING, journald=journald) as as_journal,
    ):
        with run_as_nobody(*command) as actor:
            for daemon in (as_json, as_journal):
                daemon.wait_entry(of("exec", pid=actor.pid))
            actor.pass_wait()
            actor.end()
        for daemon in (as_json, as_journal):
            daemon.wait_entry(of("exit", pid=actor.pid))
        ours = [json.loads(line) for line in as_json.lines]
    journald.sync()
    shown = subprocess.run(
        ["journalctl", "-D", journald.logs, "-o", "json", "--all", f"{PREFIX}PID={actor.pid}"],
        check=True,
        stdout=subprocess.PIPE,
    )
    theirs = [json.loads(line) for line in shown.stdout.splitlines()]
    ours = [entry for entry in ours if entry.get(f"{PREFIX}PID") == str(actor.pid)]
    assert [of_the_event(entry) for entry in ours] == [of_the_event(entry) for entry in theirs]
    assert ours[-1][f"{PREFIX}COMM"] == [255, 10, 120]
    for one, other in zip(ours, theirs, strict=True):
        assert one["_BOOT_ID"] == other["_BOOT_ID"]
        assert one["_HOSTNAME"] == other["_HOSTNAME"]
        assert abs(int(one["__REALTIME_TIMESTAMP"]) - int(other["__REALTIME_TIMESTAMP"])) < 10_000_000


def of_the_event(entry: dict[str, object]) -> dict[str, object]:
    """Without what journald adds, and how long each daemon took."""
    return {
        name: value
        for name, value in entry.items()
        if not name.startswith("_") and name != f"{PREFIX}LAG_USEC"
    }
