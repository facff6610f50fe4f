# SPDX-License-Identifier: MIT
"""Every kind of event, made for real, and every field that the manual promises of it, under the shipped unit."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pty
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.e2e.guest.report import check
from tests.e2e.guest.service import PREFIX, Entries, Entry, configure, field, of, run, systemctl

EVERYTHING = """
capture: {events: all, threads: on, hash: sha256, environment: [E2E_VARIABLE]}
log: {fields: all, limit: off}
rules:
  - {name: e2e-tagging, match: {cmdline|contains: e2e-marked}, action: tag, tags: [first, second]}
  - {name: e2e-deciding, match: {cmdline|contains: e2e-marked}, fields: {TICKET: OPS-7}}
"""

OF_ALL = {
    *("EVENT", "PID", "PPID", "PROCESS_ID", "PARENT_PROCESS_ID", "COMM", "EXE", "CWD", "CMDLINE"),
    *("UID", "EUID", "GID", "EGID", "USER", "SID", "CGROUP", "UNIT", "SLICE"),
    *("PARENT_COMM", "PARENT_EXE", "PARENT_CMDLINE", "ANCESTORS", "MONOTONIC_USEC", "IDENTITY", "SOURCE"),
}
OF_EVENT = {
    "fork": set[str](),
    "exec": {"FILENAME", "SHA256", "RULE", "TAGS", "TICKET"},
    "exit": {
        "EXIT_CODE",
        "EXIT_SOURCE",
        "DURATION_USEC",
        "CPU_USEC",
        "MEMORY_PEAK",
        "IO_READ_BYTES",
        "IO_WRITE_BYTES",
    },
    "uid": {"OLD_UID", "OLD_EUID"},
    "gid": {"OLD_GID", "OLD_EGID"},
    "sid": set[str](),
    "ptrace": {"TRACER_PID", "TRACER_COMM", "TRACER_EXE"},
    "comm": {"OLD_COMM"},
    "coredump": set[str](),
}

DIRECTORY = Path("/var/tmp")
CGROUPS = Path("/sys/fs/cgroup")
CONTAINER = "0123456789abcdef" * 4
LOGINUID = 1000
WWW_DATA = 33
LARGE = 9000
PTRACE_SEIZE = 0x4206
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def everything_is_asked_for() -> None:
    configure(EVERYTHING)
    done = systemctl("reload")
    check("a configuration that asks for everything is taken", done.returncode == 0, done.stdout)


def a_script_in_a_terminal() -> None:
    """A program that stays until all was read that is read from /proc alone."""
    entries = Entries()
    script = DIRECTORY / "e2e-script"
    script.write_text("#!/bin/sh\nread line\nexit 3\n")
    script.chmod(0o755)
    pid, terminal = pty.fork()
    if pid == 0:
        Path("/proc/self/loginuid").write_text(str(LOGINUID))
        os.chdir(DIRECTORY)
        _unshare(CLONE_NEWNS)
        os.execv(script, [str(script), "e2e-marked", "x" * LARGE])
    told = entries.one(of("exec", pid=pid))
    length = len(f"/bin/sh\0{script}\0e2e-marked\0") + LARGE + 1
    expected = {
        **_as_proc_says(pid),
        "FILENAME": str(script),
        "ARGV_TRUNCATED": "1",
        "ARGV_BYTES": str(length),
        "LOGINUID": str(LOGINUID),
        "SID": str(pid),
        "TTY": os.readlink(f"/proc/{pid}/fd/0").removeprefix("/dev/"),
        "MOUNT_NAMESPACE": str(os.stat(f"/proc/{pid}/ns/mnt").st_ino),
        "SOURCE": "recorder",
        "SHA256": hashlib.sha256(Path("/usr/bin/dash").read_bytes()).hexdigest(),
        "RULE": "e2e-deciding",
        "TAGS": "first second",
        "TICKET": "OPS-7",
    }
    os.write(terminal, b"\n")
    os.waitpid(pid, 0)
    os.close(terminal)
    _compare("exec of a script in a terminal", told, expected)
    cmdline = str(field(told, "CMDLINE"))
    check("its CMDLINE is cut in the middle", cmdline.startswith(f"/bin/sh {script} e2e-marked xxx"), cmdline)
    check("its audit session is known", field(told, "AUDIT_SESSION"), told)
    _compare("its exit", entries.one(of("exit", pid=pid)), {"EXIT_CODE": "3", "EXIT_SOURCE": "taskstats"})


def places() -> None:
    """Programs in control groups as session managers and container runtimes make them."""
    user = "user.slice/user-1000.slice"
    wanted: dict[str, dict[str, str]] = {
        f"{user}/session-7.scope": {"SESSION": "7", "UNIT": "session-7.scope", "SLICE": "user-1000.slice"},
        f"{user}/user@1000.service/app.slice/e2e.service": {
            "UNIT": "user@1000.service",
            "USER_UNIT": "e2e.service",
        },
        f"system.slice/docker-{CONTAINER}.scope": {"CONTAINER_ID": CONTAINER, "SLICE": "system.slice"},
    }
    for cgroup, expected in wanted.items():
        entries = Entries()
        with _cgroup(CGROUPS / cgroup) as procs:
            pid = _start(partial(procs.write_text, "0"), ["/bin/true"])
            os.waitpid(pid, 0)
        _compare(
            f"exec in {cgroup[:40]}", entries.one(of("exec", pid=pid)), {"CGROUP": f"/{cgroup}", **expected}
        )


def another_user_namespace() -> None:
    entries = Entries()
    release, hold = os.pipe()
    pid = _start(lambda: _unshare(CLONE_NEWUSER), ["/bin/sh", "-c", "read line"], stdin=release)
    told = entries.one(of("exec", pid=pid))
    expected = {"USER_NAMESPACE": str(os.stat(f"/proc/{pid}/ns/user").st_ino), "UID": "0"}
    os.close(hold)
    os.close(release)
    os.waitpid(pid, 0)
    _compare("exec in another user namespace", told, expected)


def a_life_without_exec() -> None:
    """A fork that changes all that there is an event for, writes, and ends."""
    entries = Entries()

    def live() -> None:
        os.setsid()
        Path("/proc/self/comm").write_text("e2e-renamed")
        os.setresgid(WWW_DATA, WWW_DATA, WWW_DATA)
        os.setresuid(WWW_DATA, WWW_DATA, WWW_DATA)
        with (DIRECTORY / f"e2e-{os.getpid()}").open("wb") as file:
            file.write(b"x" * 100_000)
            os.fsync(file.fileno())
        time.sleep(1)  # its user's name is looked up meanwhile
        os._exit(4)

    pid = _start(live)
    os.waitpid(pid, 0)
    ended = entries.one(of("exit", pid=pid))
    _compare(
        "exit of a fork",
        ended,
        {"COMM": "e2e-renamed", "EXIT_CODE": "4", "UID": str(WWW_DATA), "USER": "www-data", "SID": str(pid)},
    )
    check("what it wrote is told", int(field(ended, "IO_WRITE_BYTES")) >= 100_000, ended)
    _compare("its fork", entries.one(of("fork", pid=pid)), {"PPID": str(os.getpid()), "SOURCE": "inherited"})
    _compare("its session", entries.one(of("sid", pid=pid)), {"SID": str(pid)})
    _compare(
        "its group", entries.one(of("gid", pid=pid)), {"GID": str(WWW_DATA), "OLD_GID": "0", "OLD_EGID": "0"}
    )
    _compare(
        "its user", entries.one(of("uid", pid=pid)), {"UID": str(WWW_DATA), "OLD_UID": "0", "OLD_EUID": "0"}
    )
    _compare("its name", entries.one(of("comm", pid=pid)), {"COMM": "e2e-renamed", "OLD_COMM": _own_comm()})


def a_traced_process() -> None:
    entries = Entries()
    release, hold = os.pipe()
    pid = _start(lambda: None, ["/bin/sh", "-c", "read line"], stdin=release)
    entries.one(of("exec", pid=pid))
    libc = ctypes.CDLL(None, use_errno=True)
    check("a process can be traced", libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0, ctypes.get_errno())
    expected = {
        "TRACER_PID": str(os.getpid()),
        "TRACER_COMM": _own_comm(),
        "TRACER_EXE": os.readlink("/proc/self/exe"),
    }
    _compare("ptrace", entries.one(of("ptrace", pid=pid)), expected)
    os.close(hold)
    os.close(release)
    os.waitpid(pid, 0)


def a_crash() -> None:
    entries = Entries()

    def crash() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.chdir(DIRECTORY)

    pid = _start(crash, ["/bin/sh", "-c", "kill -ABRT $$"])
    os.waitpid(pid, 0)
    _compare(
        "exit by a crash", entries.one(of("exit", pid=pid)), {"EXIT_SIGNAL": "SIGABRT", "CORE_DUMPED": "1"}
    )
    check("a core dump is told", entries.wait(of("coredump", pid=pid)), "no entry")


def who_killed_it() -> None:
    entries = Entries()
    victim = subprocess.Popen(["/bin/sh", "-c", "while :; do sleep 60; done"])
    killer = subprocess.Popen(["/bin/sh", "-c", f"kill -KILL {victim.pid}; :"])
    killer.wait()
    victim.wait()
    expected = {
        "EXIT_SIGNAL": "SIGKILL",
        "KILLER_PID": str(killer.pid),
        "KILLER_COMM": "sh",
        "KILLER_EXE": "/usr/bin/dash",
        "KILLER_UID": "0",
    }
    _compare("exit of who was killed", entries.one(of("exit", pid=victim.pid)), expected)


def out_of_memory() -> None:
    entries = Entries()
    limits = ("-p", "MemoryMax=20M", "-p", "MemorySwapMax=0")
    run(
        "systemd-run",
        "-q",
        "--wait",
        "--unit=e2e-memory",
        *limits,
        sys.executable,
        "-c",
        "bytearray(100 << 20)",
    )
    _compare("exit without memory", entries.one(of("exit", oom_killed=1)), {"UNIT": "e2e-memory.service"})


def a_thread() -> None:
    entries = Entries()
    program = "import threading; thread = threading.Thread(target=print); thread.start(); thread.join()"
    actor = subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.DEVNULL)
    actor.wait()
    entries.settle()
    of_thread = entries.having(lambda one: field(one, "PID") == str(actor.pid) and bool(field(one, "TID")))
    told = [field(one, "EVENT") for one in of_thread]
    check("a thread's start and end have entries with its TID", told == ["fork", "exit"], told)


def with_a_drop_in_the_environment() -> None:
    """What the unit itself does not give, as its comment says."""
    drop_in = Path("/run/systemd/system/procwatchd.service.d/environment.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    capability = "CAP_DAC_READ_SEARCH"
    drop_in.write_text(f"[Service]\nAmbientCapabilities={capability}\nCapabilityBoundingSet={capability}\n")
    run("systemctl", "daemon-reload")
    done = systemctl("restart")
    check("with a drop-in it starts", done.returncode == 0, done.stdout)
    entries = Entries()
    actor = subprocess.Popen(
        ["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, env={"E2E_VARIABLE": "hello"}
    )
    _compare("exec with a variable", entries.one(of("exec", pid=actor.pid)), {"ENV_E2E_VARIABLE": "hello"})
    actor.communicate()
    drop_in.unlink()
    run("systemctl", "daemon-reload")


def nothing_is_missing() -> None:
    """Each field of each kind of event was in one entry at least: the sandbox hides nothing."""
    entries = Entries(whole_boot=True)
    for event, own in OF_EVENT.items():
        told = entries.having(of(event))
        there = {name.removeprefix(PREFIX) for entry in told for name in entry if name.startswith(PREFIX)}
        check(f"{event} has all its fields", OF_ALL | own <= there, sorted((OF_ALL | own) - there))


STEPS = (
    *(everything_is_asked_for, a_script_in_a_terminal, places, another_user_namespace, a_life_without_exec),
    *(a_traced_process, a_crash, who_killed_it, out_of_memory, a_thread, nothing_is_missing),
)


def _compare(name: str, entry: Entry, expected: dict[str, str]) -> None:
    told = {key: field(entry, key) for key in expected}
    check(f"{name} is told as it was", told == expected, f"told {told}, was {expected}: {entry['MESSAGE']}")


def _start(prepare: Callable[[], object], command: list[str] | None = None, stdin: int | None = None) -> int:
    """A process of our own that does this, and then runs the command; its PID."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if stdin is not None:
            os.dup2(stdin, 0)
            os.closerange(3, 64)
        prepare()
        if command:
            os.execv(command[0], command)
    finally:
        os._exit(99)


def _unshare(flag: int) -> None:
    """Be in a new namespace of that kind; os.unshare is newer than the oldest Python that is supported."""
    if ctypes.CDLL(None, use_errno=True).unshare(flag):
        raise OSError(ctypes.get_errno(), "unshare")


@contextlib.contextmanager
def _cgroup(path: Path) -> Iterator[Path]:
    """A control group; gives its file of processes."""
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True)
    yield path / "cgroup.procs"
    for one in made:
        one.rmdir()


def _own_comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def _as_proc_says(pid: int) -> dict[str, str]:
    """What /proc has of a process that stays."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    parent = Path(f"/proc/{stat[1]}")
    parent_stat = (parent / "stat").read_text().rpartition(") ")[2].split()
    return {
        "PID": str(pid),
        "PPID": stat[1],
        "PROCESS_ID": f"{pid}-{stat[19]}",
        "PARENT_PROCESS_ID": f"{stat[1]}-{parent_stat[19]}",
        "COMM": Path(f"/proc/{pid}/comm").read_text().strip(),
        "EXE": os.readlink(f"/proc/{pid}/exe"),
        "CWD": os.readlink(f"/proc/{pid}/cwd"),
        "CGROUP": Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"),
        "UNIT": "scenario.service",
        "SLICE": "system.slice",
        "UID": "0",
        "PARENT_COMM": (parent / "comm").read_text().strip(),
        "PARENT_EXE": os.readlink(parent / "exe"),
        "IDENTITY": "same",
    }
