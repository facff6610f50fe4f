# SPDX-License-Identifier: MIT
"""The exec recorder on the real kernel: no arguments escape it; and who killed whom."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from procwatchd.kernel.recorder import Recorder
from procwatchd.kernel.recording import BLOCKED, decode_signal
from tests.integration.actor import Actor, comm_of
from tests.integration.conftest import EVERYTHING, SOURCES
from tests.integration.running import PATIENCE_SECONDS, ROOT, Entry, RunningDaemon, of
from tests.integration.test_event_kinds import whole_exit
from tests.integration.test_refused_starts import run

PREFIX = "PROCWATCH_"
COUNT = 1000
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
# Where there are no capabilities for it; CAP_SYS_ADMIN stands for them, too.
WITHOUT_BPF = (
    "setpriv",
    "--inh-caps=-bpf,-perfmon,-sys_admin",
    "--bounding-set=-bpf,-perfmon,-sys_admin",
)
INSTANT = ROOT / "tests" / "bench" / "helpers" / "instant.c"
BY_PROC = EVERYTHING.replace("threads: on", "threads: on, arguments: proc")
WIDE = EVERYTHING.replace("fields: all", "fields: all, max-argv: 128K")
PYTHON = (sys.executable, "-S", "-E", "-c")


def get(entry: Entry, name: str) -> str | None:
    value: str | None = entry.get(PREFIX + name)
    return value


def picked(entry: Entry, *names: str) -> dict[str, str | None]:
    return {name: get(entry, name) for name in names}


@pytest.fixture(scope="module")
def programs(helpers: Path) -> dict[str, str]:
    """Programs that end soon: one that is linked as most are, a static one, and one without any library."""
    found = {"dynamic": "/bin/true"}
    for name, flags in (("static", ("-static",)), ("instant", ("-nostdlib", "-static"))):
        found[name] = str(helpers / name)
        source = INSTANT if name == "instant" else SOURCES / "steps.c"
        subprocess.run(["cc", "-O2", "-pthread", *flags, "-o", found[name], source], check=True)
    return found


@pytest.fixture(scope="module")
def target(helpers: Path) -> str:
    return str(helpers / "target")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that writes arguments as long as it may."""
    with RunningDaemon(tmp_path_factory.mktemp("wide"), WIDE) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def lost_first(everything: RunningDaemon, wide: RunningDaemon) -> list[int]:
    """What each had lost of recordings when it began."""
    return [int(daemon.statistics()[PREFIX + "RECORDER_LOST"]) for daemon in (everything, wide)]


@pytest.fixture(autouse=True)
def fresh(everything: RunningDaemon, lost_first: list[int]) -> None:  # noqa: ARG001
    """Thousands of processes come and go here, so that a PID may be one of an earlier test's: forget those."""
    everything.entries.clear()


@contextlib.contextmanager
def busy_cpus(program: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(Actor(program, "burn"))
        yield


def spawn(daemon: RunningDaemon, helpers: Path, count: int, *programs: str, by: tuple[str, ...] = ()) -> int:
    """Have these programs started so often; gives the spawner's PID once the daemon has told of them all."""
    with Actor(*by, str(helpers / "spawner"), str(count), *programs) as actor:
        actor.go()
        assert actor.end() == 0
    ended = daemon.wait_entry(of("exit", pid=actor.pid))
    assert get(ended, "EXIT_CODE") == "0"
    return actor.pid


def execs_below(daemon: RunningDaemon, pid: int) -> dict[str | None, list[Entry]]:
    """The execs of a process's children, by EXE."""
    found: defaultdict[str | None, list[Entry]] = defaultdict(list)
    for entry in daemon.having(of("exec", ppid=pid)):
        found[get(entry, "EXE")].append(entry)
    return found


def test_no_arguments_escape(everything: RunningDaemon, helpers: Path, programs: dict[str, str]) -> None:
    """However short a program is, and however busy the machine."""
    with busy_cpus(str(helpers / "spawner")):
        pid = spawn(everything, helpers, COUNT, *programs.values())
    execs = execs_below(everything, pid)
    paths = [os.path.realpath(program) for program in programs.values()]
    assert {exe: len(entries) for exe, entries in execs.items()} == dict.fromkeys(paths, COUNT)
    for path, program in zip(paths, programs.values(), strict=True):
        for number, entry in enumerate(execs[path]):
            assert picked(entry, "CMDLINE", "SOURCE", "IDENTITY", "FILENAME", "LAG_USEC", "COMM") == {
                "CMDLINE": f"{program} number {number}",
                "SOURCE": "recorder",
                "IDENTITY": "same",
                "FILENAME": program,
                "LAG_USEC": None,
                "COMM": os.path.basename(program),
            }


def test_what_was_recorded_is_told_at_the_end_too(
    everything: RunningDaemon, programs: dict[str, str]
) -> None:
    with Actor(programs["instant"], "a b", "\udcff") as actor:
        actor.end()
    execed = everything.wait_entry(of("exec", pid=actor.pid))
    ended = everything.wait_entry(of("exit", pid=actor.pid))
    names = ("CMDLINE", "EXE", "CWD", "PROCESS_ID", "UID", "PPID", "CGROUP", "SID", "ANCESTORS")
    assert picked(execed, *names) == picked(ended, *names)
    assert picked(execed, "CMDLINE", "CWD", "PPID", "UID", "SID") == {
        "CMDLINE": f"{programs['instant']} 'a b' $'\\xff'",
        "CWD": os.getcwd(),
        "PPID": str(os.getpid()),
        "UID": "0",
        "SID": str(os.getsid(0)),
    }
    assert (get(ended, "SOURCE"), get(ended, "FILENAME")) == ("table", None)


def test_recorder_and_proc_say_the_same(everything: RunningDaemon, tmp_path: Path, steps: str) -> None:
    """Of one process, by two daemons."""
    with (
        RunningDaemon(tmp_path, BY_PROC) as other,
        Actor(*AS_NOBODY, steps, "wait", "exit", "3", cwd="/usr/share") as actor,
    ):
        actor.reached()
        recorded = everything.wait_entry(of("exec", pid=actor.pid, comm="steps"))
        read = other.wait_entry(of("exec", pid=actor.pid, comm="steps"))
        actor.go()
        actor.end()
    assert (get(recorded, "SOURCE"), get(read, "SOURCE")) == ("recorder", "proc")
    assert (get(recorded, "FILENAME"), get(read, "FILENAME")) == (steps, None)
    # Nobody but the recorder knows what was given, nor when it was read but who read.
    alone = {PREFIX + name for name in ("SOURCE", "FILENAME", "LAG_USEC")}
    same = {name: value for name, value in recorded.items() if name.startswith(PREFIX) and name not in alone}
    assert same == {name: read[name] for name in read if name.startswith(PREFIX) and name not in alone}


def run_at(daemon: RunningDaemon, *command: str, cwd: str | None = None) -> Entry:
    """The last exec of a command that ends by itself."""
    with Actor(*command, cwd=cwd) as actor:
        assert actor.end() == 0
    daemon.wait_entry(of("exit", pid=actor.pid))
    return daemon.having(of("exec", pid=actor.pid))[-1]


def test_a_script_is_told_by_its_own_path(everything: RunningDaemon, tmp_path: Path) -> None:
    script = tmp_path / "a script"
    script.write_text("#!/bin/sh -e\n:\n")
    script.chmod(0o755)
    entry = run_at(everything, "./a script", "x", cwd=str(tmp_path))
    assert picked(entry, "FILENAME", "EXE", "CMDLINE", "CWD", "SOURCE") == {
        "FILENAME": "./a script",
        "EXE": os.path.realpath("/bin/sh"),
        "CMDLINE": "/bin/sh -e './a script' x",
        "CWD": str(tmp_path),
        "SOURCE": "recorder",
    }


def test_a_program_that_is_no_more(
    everything: RunningDaemon, tmp_path: Path, programs: dict[str, str]
) -> None:
    program = tmp_path / "program"
    shutil.copy(programs["static"], program)
    code = "import os,sys; fd = os.open(sys.argv[1], 0); os.unlink(sys.argv[1]); os.execve(fd, ['x', 'exit', '0'], {})"
    entry = run_at(everything, *PYTHON, code, str(program))
    assert picked(entry, "EXE", "CMDLINE", "SOURCE") == {
        "EXE": f"{program} (deleted)",
        "CMDLINE": "x exit 0",
        "SOURCE": "recorder",
    }


def test_a_program_that_never_had_a_path(everything: RunningDaemon, programs: dict[str, str]) -> None:
    code = (
        "import os,sys; fd = os.memfd_create('a name'); os.write(fd, open(sys.argv[1], 'rb').read()); "
        "os.execve(fd, ['x', 'exit', '0'], {})"
    )
    entry = run_at(everything, *PYTHON, code, programs["instant"])
    assert picked(entry, "EXE", "CMDLINE", "SOURCE") == {
        "EXE": "/memfd:a name (deleted)",
        "CMDLINE": "x exit 0",
        "SOURCE": "recorder",
    }
    assert (get(entry, "FILENAME") or "").startswith("/dev/fd/")


def test_a_directory_that_is_no_more(everything: RunningDaemon, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    entry = run_at(everything, "/bin/sh", "-c", "rmdir ../gone; exec /bin/true", cwd=str(gone))
    assert picked(entry, "CWD", "EXE") == {"CWD": f"{gone} (deleted)", "EXE": os.path.realpath("/bin/true")}


def test_paths_in_another_root(everything: RunningDaemon, tmp_path: Path, programs: dict[str, str]) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(programs["static"], tmp_path / "bin" / "program")
    entry = run_at(everything, "chroot", str(tmp_path), "/bin/program", "exit", "0")
    assert picked(entry, "FILENAME", "EXE", "CWD", "SOURCE") == {
        "FILENAME": "/bin/program",
        "EXE": f"{tmp_path}/bin/program",
        "CWD": str(tmp_path),
        "SOURCE": "recorder",
    }


def test_deep_paths(everything: RunningDaemon, tmp_path: Path, programs: dict[str, str]) -> None:
    """One that is too deep to be recorded is read, where there is time for that; it is never half of it."""
    deep = tmp_path
    for _ in range(40):
        deep /= "d"
    deep.mkdir(parents=True)
    shutil.copy(programs["static"], deep / "program")
    entry = run_at(everything, str(deep / "program"), "exit", "0", cwd=str(deep))
    assert picked(entry, "EXE", "CWD") == {"EXE": str(deep / "program"), "CWD": str(deep)}
    for _ in range(40):
        deep /= "d"
    deep.mkdir(parents=True)
    shutil.copy(programs["static"], deep / "program")
    entry = run_at(everything, str(deep / "program"), "exit", "0", cwd=str(deep))
    assert get(entry, "EXE") in (None, str(deep / "program"))
    assert get(entry, "CWD") in (None, str(deep))
    assert get(entry, "CMDLINE") == f"{deep}/program exit 0"[: len(get(entry, "CMDLINE") or "")]
    with Actor(str(deep / "program"), "wait", "exit", "0") as actor:
        actor.reached()
        entry = everything.wait_entry(of("exec", pid=actor.pid))
        assert picked(entry, "EXE", "SOURCE") == {"EXE": str(deep / "program"), "SOURCE": "recorder"}
        actor.go()
        actor.end()


def long_arguments(size: int) -> list[str]:
    """Of so many bytes, with what ends each."""
    words = [f"{n:09}" for n in range(size // 10)]
    assert 10 * len(words) == size
    return words


def test_long_arguments_of_who_stays(wide: RunningDaemon, steps: str) -> None:
    words = long_arguments(20_000)
    with Actor(steps, "wait", "exec", steps, "wait", "note", *words, stdout=subprocess.PIPE) as actor:
        actor.reached()
        entry = wide.wait_entry(of("exec", pid=actor.pid))
        actor.process.kill()
    assert get(entry, "CMDLINE") == f"{steps} wait exec {steps} wait note {' '.join(words)}"
    assert picked(entry, "SOURCE", "ARGV_TRUNCATED") == {"SOURCE": "recorder", "ARGV_TRUNCATED": None}


def test_very_long_arguments_of_who_stays(wide: RunningDaemon, steps: str) -> None:
    words = long_arguments(200_000)
    with Actor(steps, "wait", "note", *words) as actor:
        actor.reached()
        entry = wide.wait_entry(of("exec", pid=actor.pid))
        actor.process.kill()
    size = len(f"{steps} wait note ") + 200_000
    assert picked(entry, "SOURCE", "ARGV_TRUNCATED", "ARGV_BYTES") == {
        "SOURCE": "recorder",
        "ARGV_TRUNCATED": "1",
        "ARGV_BYTES": str(size),
    }
    head, tail = (get(entry, "CMDLINE") or "").split(" […")
    assert len(head) > 90_000
    assert f"{steps} wait note {' '.join(words)}".startswith(head)
    assert " ".join(words).endswith(tail.split("] ", 1)[1])
    assert len(tail) > 4000


@pytest.mark.parametrize("size", [8_000, 9_000, 20_000, 200_000])
def test_long_arguments_of_who_ends_at_once(wide: RunningDaemon, programs: dict[str, str], size: int) -> None:
    """The head and the tail are recorded; what is shown of them is true, and says what is left out."""
    words = long_arguments(size)
    program = programs["instant"]
    with Actor(program, *words) as actor:
        actor.end()
    entry = wide.wait_entry(of("exec", pid=actor.pid))
    whole = f"{program} {' '.join(words)}"
    shown = get(entry, "CMDLINE") or ""
    assert (get(entry, "SOURCE"), get(entry, "EXE")) == ("recorder", program)
    if get(entry, "ARGV_TRUNCATED") is None:
        assert shown == whole
        return
    assert size > 9_000
    assert get(entry, "ARGV_BYTES") == str(len(whole) + 1)
    head, tail = shown.split(" […")
    left_out, tail = tail.split(" bytes…] ")
    assert (len(head) > 8_000, len(tail) > 4_000) == (True, True)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert abs(len(head) + int(left_out) + len(tail) - len(whole)) <= 3


def test_an_exec_by_another_thread(everything: RunningDaemon, steps: str) -> None:
    with Actor(steps, "in-thread", "exec", steps, "note", "after", "exit", "5") as actor:
        actor.end()
    everything.wait_entry(of("exit", pid=actor.pid, exit_code=5))
    _before, after = everything.having(of("exec", pid=actor.pid))
    assert picked(after, "CMDLINE", "SOURCE", "TID") == {
        "CMDLINE": f"{steps} note after exit 5",
        "SOURCE": "recorder",
        "TID": None,
    }


def test_each_of_two_execs_has_its_own(everything: RunningDaemon, steps: str) -> None:
    pids = []
    for number in range(100):
        with Actor(steps, "note", f"first-{number}", "exec", steps, "note", f"second-{number}") as actor:
            actor.end()
        pids.append(actor.pid)
    everything.wait_entry(of("exit", pid=pids[-1]))
    for number, pid in enumerate(pids):
        first, second = everything.having(of("exec", pid=pid))
        assert get(first, "CMDLINE") == f"{steps} note first-{number} exec {steps} note second-{number}"
        assert get(second, "CMDLINE") == f"{steps} note second-{number}"


def test_a_traced_program_is_told_like_any_other(
    everything: RunningDaemon, helpers: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    """A tracer stops each exec between what is recorded and its event."""
    strace = ("strace", "-f", "-qq", "-e", "trace=execve", "-o", str(tmp_path / "strace"))
    with Actor(*strace, str(helpers / "spawner"), "50", *programs.values()) as actor:
        actor.go()
        assert actor.end() == 0
    everything.wait_entry(of("exit", pid=actor.pid))
    spawner = everything.having(of("exec", ppid=actor.pid, comm="spawner"))[-1]
    execs = execs_below(everything, int(get(spawner, "PID") or 0))
    for program in programs.values():
        told = [(get(entry, "CMDLINE"), get(entry, "SOURCE")) for entry in execs[os.path.realpath(program)]]
        assert told == [(f"{program} number {number}", "recorder") for number in range(50)]


def test_a_setuid_program(everything: RunningDaemon, programs: dict[str, str]) -> None:
    setuid = f"{programs['static']}-setuid"
    shutil.copy(programs["static"], setuid)
    os.chmod(setuid, 0o4755)
    try:
        entry = run_at(everything, *AS_NOBODY, setuid, "exit", "0")
    finally:
        os.unlink(setuid)
    assert picked(entry, "EXE", "UID", "EUID", "GID", "EGID", "SOURCE") == {
        "EXE": setuid,
        "UID": str(NOBODY),
        "EUID": "0",
        "GID": str(NOBODY),
        "EGID": str(NOBODY),
        "SOURCE": "recorder",
    }


KILLER = ("KILLER_PID", "KILLER_COMM", "KILLER_EXE", "KILLER_UID", "OOM_KILLED")
NOBODY_DID = dict.fromkeys(KILLER)


def ended(daemon: RunningDaemon, pid: int, by: str) -> Entry:
    entry = daemon.wait_entry(whole_exit(pid))
    assert get(entry, "EXIT_SIGNAL") == by
    return entry


def killer(daemon: RunningDaemon, pid: int, by: str = "SIGTERM") -> dict[str, str | None]:
    """What is told of who ended it."""
    return picked(ended(daemon, pid, by), *KILLER)


def ourselves() -> dict[str, str | None]:
    exe = os.readlink("/proc/self/exe")
    return NOBODY_DID | {
        "KILLER_PID": str(os.getpid()),
        "KILLER_COMM": comm_of(os.getpid()),
        "KILLER_EXE": exe,
        "KILLER_UID": str(os.getuid()),
    }


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT, signal.SIGUSR1, signal.SIGRTMIN]
)
def test_who_killed_it(everything: RunningDaemon, target: str, number: signal.Signals) -> None:
    with Actor(target, "wait") as actor:
        actor.reached()
        os.kill(actor.pid, number)
        actor.end()
    assert killer(everything, actor.pid, number.name) == ourselves()
    message = ended(everything, actor.pid, number.name)["MESSAGE"]
    assert f"killed by {number.name} from {comm_of(os.getpid())}[{os.getpid()}]" in message


def test_a_killer_that_lives_as_long_as_it_takes(everything: RunningDaemon, target: str) -> None:
    for _ in range(50):
        with Actor(target, "wait") as actor, Actor("/bin/kill", str(actor.pid)) as kill:
            kill.end()
            actor.end()
        assert killer(everything, actor.pid) == NOBODY_DID | {
            "KILLER_PID": str(kill.pid),
            "KILLER_COMM": "kill",
            "KILLER_EXE": os.path.realpath("/bin/kill"),
            "KILLER_UID": "0",
        }


def test_whoever_kills_many_at_once_is_named_by_all(everything: RunningDaemon) -> None:
    """As a service manager does that stops a unit."""
    code = """
import os, signal
children = []
for _ in range(2000):
    if not (pid := os.fork()):
        signal.pause()
    children.append(pid)
for pid in children:
    os.kill(pid, signal.SIGTERM)
for pid in children:
    os.waitpid(pid, 0)
"""
    with Actor(*PYTHON, code) as actor:
        assert actor.end() == 0
    killed = everything.wait_entries(of("exit", ppid=actor.pid), 2000)
    assert {get(entry, "KILLER_PID") for entry in killed} == {str(actor.pid)}


def test_a_killer_of_another_user(everything: RunningDaemon, target: str) -> None:
    with Actor(*AS_NOBODY, target, "wait") as actor:
        actor.reached()
        with Actor(*AS_NOBODY, "/bin/kill", "-KILL", str(actor.pid)) as kill:
            kill.end()
        actor.end()
    found = killer(everything, actor.pid, "SIGKILL")
    assert (found["KILLER_PID"], found["KILLER_UID"]) == (str(kill.pid), str(NOBODY))


def test_who_kills_itself(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "raise", "15") as actor:
        actor.end()
    found = killer(everything, actor.pid)
    assert (found["KILLER_PID"], found["KILLER_EXE"]) == (str(actor.pid), target)
    assert "killed by SIGTERM from itself" in ended(everything, actor.pid, "SIGTERM")["MESSAGE"]


def test_a_kill_of_the_group_by_its_own_thread(everything: RunningDaemon, target: str) -> None:
    """The leader blocks the signal, another thread sends it and gets it."""
    with Actor(target, "thread", "15", "wait", "raise", "15") as actor:
        actor.pass_wait()
        actor.end()
    assert killer(everything, actor.pid)["KILLER_PID"] == str(actor.pid)


def test_a_signal_that_was_caught_names_nobody(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "catch", "15", "wait", "wait", "default", "15", "timer", "15") as actor:
        actor.reached()
        os.kill(actor.pid, signal.SIGTERM)
        actor.go()
        actor.pass_wait()
        actor.end()
    assert killer(everything, actor.pid) == NOBODY_DID


def test_nor_does_one_that_was_taken(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "block", "15", "wait", "take", "15", "wait", "unblock", "15", "timer", "15") as actor:
        actor.reached()
        os.kill(actor.pid, signal.SIGTERM)
        actor.go()
        actor.pass_wait()
        actor.end()
    assert killer(everything, actor.pid) == NOBODY_DID


def test_one_that_is_waited_for_is_told_as_one_that_may_wait(target: str) -> None:
    """While sigwaitinfo(2) waits the signal is not blocked, and still it kills nobody."""
    steps = ("block", "15", "wait", "take", "15", "exit", "3")
    with contextlib.closing(Recorder()) as recorder, Actor(target, *steps) as actor:
        actor.pass_wait()
        wait_for(lambda: not is_blocked(actor.pid, signal.SIGTERM))
        os.kill(actor.pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(actor.end()) == 3
        signals = [decode_signal(one) for one in recorder.drain().signals]
    (flags,) = [one.flags for one in signals if one is not None and one.tgid == actor.pid]
    assert flags & BLOCKED


def is_blocked(pid: int, number: signal.Signals) -> bool:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) >> (number - 1) & 1)


def test_nor_does_one_that_waits_as_it_ends_by_itself(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "block", "15", "wait", "exit", "3") as actor:
        actor.reached()
        os.kill(actor.pid, signal.SIGTERM)
        actor.go()
        actor.end()
    entry = everything.wait_entry(of("exit", pid=actor.pid, exit_code=3))
    assert picked(entry, *KILLER) == NOBODY_DID


def test_a_signal_that_was_blocked_kills_later(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "block", "15", "wait", "wait", "unblock", "15") as actor:
        actor.reached()
        os.kill(actor.pid, signal.SIGTERM)
        actor.go()
        actor.pass_wait()
        actor.end()
    assert killer(everything, actor.pid) == ourselves()


def test_of_many_that_wait_in_one_queue_nobody_knows(everything: RunningDaemon, target: str) -> None:
    """The first one sent is the first one to be taken: whoever sent the last one did not kill."""
    number = signal.SIGRTMIN
    with Actor(target, "block", str(number.value), "wait", "unblock", str(number.value)) as actor:
        actor.reached()
        os.kill(actor.pid, number)
        subprocess.run(["/bin/kill", f"-{number.value}", str(actor.pid)], check=True)
        actor.go()
        actor.end()
    assert killer(everything, actor.pid, number.name) == NOBODY_DID


@pytest.mark.parametrize(
    ("steps", "by"), [(("alarm", "0"), "SIGALRM"), (("timer", "15"), "SIGTERM"), (("fault", "8"), "SIGSEGV")]
)
def test_timers_and_faults_have_no_sender(
    everything: RunningDaemon, target: str, steps: tuple[str, str], by: str
) -> None:
    with Actor(target, *steps) as actor:
        actor.end()
    assert killer(everything, actor.pid, by) == NOBODY_DID


def line_of(actor: Actor) -> int:
    assert actor.process.stdout is not None
    return int(actor.process.stdout.readline())


def test_a_signal_to_an_earlier_life_of_the_pid(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "reuse", "0") as actor:
        pid = line_of(actor)
        os.kill(pid, signal.SIGTERM)
        actor.go()
        assert line_of(actor) == pid
        actor.go()
        actor.end()
    first, second = everything.wait_entries(of("exit", pid=pid), 2)
    assert picked(first, "EXIT_CODE", *KILLER) == NOBODY_DID | {"EXIT_CODE": "3"}
    assert picked(second, "EXIT_SIGNAL", *KILLER) == NOBODY_DID | {"EXIT_SIGNAL": "SIGTERM"}


def test_a_sender_whose_pid_is_anothers_by_then(everything: RunningDaemon, target: str) -> None:
    with Actor(target, "block", "15", "wait", "unblock", "15") as actor:
        actor.reached()
        with Actor(target, "reuse-sender", str(actor.pid)) as senders:
            pid = line_of(senders)
            assert comm_of(pid) == "innocent"
            actor.go()
            actor.end()
            senders.go()
            senders.end()
    assert killer(everything, actor.pid) == NOBODY_DID | {
        "KILLER_PID": str(pid),
        "KILLER_COMM": "sender",
        "KILLER_EXE": target,
        "KILLER_UID": "0",
    }


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group with little memory, and no swap."""
    v1 = Path("/sys/fs/cgroup/memory")
    is_v1 = v1.is_dir()
    root = v1 if is_v1 else Path("/sys/fs/cgroup")
    if not is_v1:
        (root / "cgroup.subtree_control").write_text("+memory")
    group = root / f"procwatchd-{os.getpid()}"
    group.mkdir()
    names = (
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if is_v1
        else ("memory.max", "memory.swap.max")
    )
    for name, size in zip(names, ("16M", "16M" if is_v1 else "0"), strict=True):
        with contextlib.suppress(FileNotFoundError):
            (group / name).write_text(size)
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_oom_killer(everything: RunningDaemon, steps: str, small_memory: Path) -> None:
    script = f"echo $$ >{small_memory}/cgroup.procs; exec {shlex.quote(steps)} touch 64"
    with Actor("/bin/sh", "-c", script) as actor:
        assert actor.end() == signal.SIGKILL
    assert killer(everything, actor.pid, "SIGKILL") == NOBODY_DID | {"OOM_KILLED": "1"}
    assert (
        "SIGKILL from the kernel, which was out of memory"
        in ended(everything, actor.pid, "SIGKILL")["MESSAGE"]
    )


def test_by_proc_alone(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, BY_PROC) as daemon:
        with Actor(steps, "wait") as actor:
            actor.reached()
            execed = daemon.wait_entry(of("exec", pid=actor.pid))
            os.kill(actor.pid, signal.SIGTERM)
            actor.end()
        assert picked(execed, "SOURCE", "CMDLINE", "FILENAME") == {
            "SOURCE": "proc",
            "CMDLINE": f"{steps} wait",
            "FILENAME": None,
        }
        assert int(get(execed, "LAG_USEC") or -1) >= 0
        assert killer(daemon, actor.pid) == NOBODY_DID
        assert not loaded_by(daemon)
        assert "; arguments by /proc alone: capture.arguments is proc" in daemon.entries[0]["MESSAGE"]


def test_without_permission_it_goes_on_and_says_so_once(tmp_path: Path, steps: str) -> None:
    daemon = RunningDaemon(tmp_path, EVERYTHING)
    daemon.command = [*WITHOUT_BPF, *daemon.command]
    with daemon:
        with Actor(steps, "wait", "exit", "3") as actor:
            actor.reached()
            execed = daemon.wait_entry(of("exec", pid=actor.pid))
            actor.go()
            actor.end()
        assert picked(execed, "SOURCE", "CMDLINE") == {"SOURCE": "proc", "CMDLINE": f"{steps} wait exit 3"}
        daemon.wait_entry(of("exit", pid=actor.pid))
        assert daemon.stop() == 0
    said = [entry for entry in daemon.entries if "CAP_BPF" in entry["MESSAGE"]]
    assert [get(entry, "EVENT") for entry in said] == ["start"]
    assert "CAP_BPF or CAP_PERFMON is missing" in said[0]["MESSAGE"]
    assert not daemon.errors


def test_without_permission_who_insists_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "procwatchd.yaml"
    config.write_text("capture: {arguments: recorder}")
    result = run(tmp_path, "-c", str(config), "--output", "text", before=WITHOUT_BPF)
    assert (result.returncode, result.stdout) == (77, "")
    assert "CAP_BPF or CAP_PERFMON is missing" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def loaded_by(daemon: RunningDaemon) -> dict[str, set[int]]:
    """The ids of programs and maps that a daemon has loaded."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for info in Path(f"/proc/{daemon.pid}/fdinfo").iterdir():
        for line in info.read_text().splitlines():
            if line.startswith(("prog_id:", "map_id:")):
                found[line.partition("_")[0]].add(int(line.partition(":")[2]))
    return found


def is_loaded(kind: str, number: int) -> bool:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    fd: int = getattr(library, f"bpf_{kind}_get_fd_by_id")(ctypes.c_uint32(number))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def test_two_daemons_do_not_disturb_each_other(
    everything: RunningDaemon, helpers: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    """Nor is anything left in the kernel of the one that ends."""
    with RunningDaemon(tmp_path, EVERYTHING) as other:
        ids = [(kind, number) for kind, numbers in loaded_by(other).items() for number in numbers]
        assert {kind for kind, _ in ids} == {"prog", "map"}
        assert all(is_loaded(*one) for one in ids)
        for daemon in (everything, other):
            pid = spawn(daemon, helpers, 20, programs["instant"])
            for each in (everything, other):
                each.wait_entry(of("exit", pid=pid))
                execs = execs_below(each, pid)[programs["instant"]]
                assert [get(entry, "SOURCE") for entry in execs] == ["recorder"] * 20
        assert other.stop() == 0
    wait_for(lambda: not any(is_loaded(*one) for one in ids))
    pid = spawn(everything, helpers, 20, programs["instant"])
    assert len(execs_below(everything, pid)[programs["instant"]]) == 20


def test_who_starts_amid_execs_has_the_arguments_of_all(
    everything: RunningDaemon, helpers: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    """While somebody listens already the kernel sends events as soon as there is a socket for them."""
    with Actor(str(helpers / "spawner"), "100000", programs["instant"]) as spawner:
        spawner.go()
        everything.wait_entry(of("exec", ppid=spawner.pid))
        with RunningDaemon(tmp_path, EVERYTHING) as daemon:
            terms = daemon.statistics()
            told = execs_below(daemon, spawner.pid)[programs["instant"]]
    assert get(terms, "RECORDER_LOST") == "0"
    assert {get(entry, "SOURCE") for entry in told} == {"recorder"}


def test_nothing_was_lost(everything: RunningDaemon, wide: RunningDaemon, lost_first: list[int]) -> None:
    """By all of that: neither events nor recordings."""
    for daemon, first in zip((everything, wide), lost_first, strict=True):
        terms = daemon.statistics()
        names = ("LOST", "RECORDINGS_UNUSED", "SIGNALS_FORGOTTEN", "FAILURES")
        assert picked(terms, *names) == dict.fromkeys(names, "0")
        assert int(terms[PREFIX + "RECORDER_LOST"]) == first
