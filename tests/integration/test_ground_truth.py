# SPDX-License-Identifier: MIT
"""Some hundred commands under strace(1), which sees all that they do: the record says the same, no more and no less."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import strace
from tests.integration.actor import Actor
from tests.integration.conftest import everything_by
from tests.integration.ledger import check_end
from tests.integration.running import Entry, RunningDaemon
from tests.integration.strace import Exec, Traced

PREFIX = "PROCWATCH_"
PIPE_BYTES = 1 << 20
MAX_ARGV = 128 << 10
# So many execs of a hundred may go by unread: who ends, or becomes another, at once.
UNREAD_PERCENT = 5
COMM_BYTES = 15

HOSTILE = [
    b"",
    b" ",
    b"a b",
    b"'",
    b'"',
    b"\\",
    b"\\n",
    b"$HOME",
    b"`id`",
    b"$(id)",
    b"!x",
    b"*",
    b"~",
    b"#",
    b"-",
    b"--",
    b"a=b",
    b"{a,b}",
    b"a\nb",
    b"\n",
    b"a\tb\r",
    b"\x1b[31mred\x1b[m",
    b"\x01\x7f",
    b"\x80",
    b"\xff\xfe",
    b"0\xff0",
    b"\xc3",
    "grün".encode(),
    "\u202e\u200b".encode(),
    b"'\xff'",
    b"$'\\xff'",
    b"x" * 100_000,
]
LONG = b"y" * 100_000

SIGNALS = ("HUP", "INT", "KILL", "TERM", "USR1", "PIPE", "ALRM", "ABRT", "SEGV", "RTMIN", "RTMIN+1", "RTMAX")

PYTHON = {
    "threads": """
import subprocess, threading
def work():
    subprocess.run(["/bin/true", "from a thread"])
threads = [threading.Thread(target=work) for _ in range(4)]
[one.start() for one in threads], [one.join() for one in threads]
""",
    "a whole group of threads killed": """
import os, signal, threading, time
[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(5)]
os.kill(os.getpid(), signal.SIGKILL)
""",
    "ways to start": """
import os, subprocess
subprocess.run(["/bin/sh", "-c", "exit 3"])
subprocess.run(["/bin/true"], start_new_session=True)
subprocess.run(["/bin/true"], preexec_fn=os.setpgrp)
subprocess.run(["/bin/true"], cwd="/", close_fds=False)
os.waitpid(os.posix_spawn("/bin/true", ["spawned"], {}), 0)
os.waitpid(os.posix_spawn("/bin/true", ["in a session"], {}, setsigmask=[2]), 0)
try:
    subprocess.run(["/nonexistent"])
except FileNotFoundError:
    pass
""",
    "orphans": """
import os, time
for n in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            parent = os.getppid()
            os.execv("/bin/sh", ["sh", "-c", f"sleep 0.0{n}; exit {n}"])
        os._exit(10 + n)
for _ in range(5):
    os.wait()
""",
    "by descriptor": """
import os
os.execve(os.open("/bin/true", os.O_RDONLY), ["by descriptor", ""], {})
""",
    "nobody waits": """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in range(5):
    if os.fork() == 0:
        os._exit(n)
time.sleep(0.01)
""",
}

# What `kin` and `steps` (helpers/) can do that a shell cannot.
KIN = ("from-thread", "clone-parent", "clone-parent-from-thread", "subreaper", "init")
STEPS = (
    "exec STEPS exec STEPS exec STEPS exit 3",
    "in-thread exec STEPS exit 4",
    "in-thread exec STEPS in-thread exec STEPS exit 5",
    "threads in-thread exec /bin/true",
    "leader-ends exit 6",
    "leader-ends signal 9",
    "leader-ends exec STEPS exit 7",
    "threads exit 8",
    "thread child child exit 9",
    "child signal 11",
    "orphan orphan exit 10",
    "in-thread child exit 11",
    "comm renamed child exec STEPS comm again exit 12",
    "uid 65534 exec STEPS exit 13",
    "exec-bare /bin/true",
)

SCRIPTS = {
    "shell": "#!/bin/sh\nexit 3\n",
    "option": '#!/bin/sh -e\n/bin/true "$@"\n',
    "env": '#!/usr/bin/env -S sh -e\nexec /bin/true "$@"\n',
    "words": "#! /bin/echo two words \n",
    "nested": "#!{directory}/option\n",
    "bare": "/bin/true without a first line\n",
    "no-interpreter": "#!/nonexistent\n",
    "garbage": "\x7fELF garbage",
}


def quoted(word: bytes) -> bytes:
    """For a shell's script."""
    return b"'" + word.replace(b"'", b"'\\''") + b"'"


def make_files(directory: Path) -> None:
    for name, text in SCRIPTS.items():
        (directory / name).write_text(text.format(directory=directory), encoding="latin-1")
        (directory / name).chmod(0o755)
    (directory / "locked").write_text("#!/bin/sh\n")
    (directory / "locked").chmod(0o644)
    (directory / "link").symlink_to("/bin/true")
    with (
        open("/bin/true", "rb") as source,
        open(os.fsencode(directory) + b"/odd \xff\n) R 1 (", "wb") as target,
    ):
        target.write(source.read())
        os.fchmod(target.fileno(), 0o755)


def commands(helpers: Path) -> list[bytes]:
    """Lines for a shell, each for itself."""
    plain = [
        "{ for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do /bin/true $n; done; }",
        "for n in 1 2 3 4 5 6 7 8 9 10; do echo $n | cat | wc -c; done",
        "for n in 1 2 3 4 5 6 7 8 9 10; do a=$(expr $n + 1); done",
        "a=$(echo $(/bin/echo $(/bin/echo deep)))",
        "(exec /bin/true in a subshell); (/bin/true; exit 7)",
        "sh -c 'exec /bin/false'; sh -c 'exit 250'; /bin/false || /bin/true; ! /bin/true",
        "sh -c '/bin/true; exec sh -c \"exec /bin/true third\"'",
        "for n in 1 2 3 4 5; do sleep 0.0$n & done; wait",
        "sleep 60 & kill $!; wait $!; sleep 60 & kill -KILL $!; wait $!",
        "yes | head -n 3",
        "./shell; ./option a 'b c'; ./env a ''; ./words x; ./nested y; ./bare; ./link; sh ./bare",
        "./no-interpreter; ./locked; ./garbage; ./nowhere; /nonexistent/x; nonexistent; ./; /etc/passwd/x",
        "env A=b /bin/true; env -i /bin/true; env ./option x; env nonexistent; env ./locked",
        "nice -n 5 /bin/true; nohup /bin/true; timeout 5 /bin/true; timeout -s KILL 0.05 sleep 60",
        "setsid /bin/true; setsid sh -c 'sleep 0.05 & exit 4'; setsid -f /bin/true",
        "seq 30 | xargs -n 5 /bin/echo; seq 12 | xargs -P 4 -n 1 /bin/true",
        r"printf 'a b\0\0c\n\0' | xargs -0 -n 1 /bin/true; echo x | xargs nonexistent",
        r"find . -type f -exec /bin/true {} \; ; find . -type f -exec /bin/true {} +",
        "find . -name shell -exec sh -c 'exec \"$0\"' {} ';'",
        "(sleep 0.05; exit 5) & (exit 6) & wait",
    ]
    lines = [line.encode() for line in plain]
    lines += [b"/bin/true " + quoted(word) for word in HOSTILE]
    lines += [b"/bin/true " + b" ".join(map(quoted, HOSTILE[:-1]))]
    # Together beyond what is read, and each within what one argument may have.
    lines += [b"/bin/true " + b" ".join([LONG] * 3), b"/bin/true " + LONG * 2]
    lines += [b"./" + quoted(b"odd \xff\n) R 1 (") + b" x"]
    lines += [f"(ulimit -c unlimited; exec sh -c 'kill -s {name} $$')".encode() for name in SIGNALS]
    lines += [f"{sys.executable} -I -c {shlex.quote(code)}".encode() for code in PYTHON.values()]
    lines += [f"{helpers}/steps {line}".replace("STEPS", f"{helpers}/steps").encode() for line in STEPS]
    lines += [f"{helpers}/kin {kind}".encode() for kind in KIN]
    return lines


@dataclass
class Run:
    """What strace saw, and what the daemon wrote of it, in order; `may_miss`: arguments, for want of the recorder."""

    directory: Path
    strace_pid: int
    traced: list[Traced]
    entries: list[Entry]
    by_process: dict[Traced, list[Entry]]
    may_miss: bool

    def ids(self, process: Traced) -> set[str | None]:
        """Its PROCESS_IDs, one mostly: see `is_one_id`."""
        return {get(entry, "PROCESS_ID") for entry in self.by_process[process]}


def is_of_process(entry: Entry, event: str) -> bool:
    """Whether it is on such an event of a process, not of one of its threads."""
    return get(entry, "EVENT") == event and get(entry, "TID") is None


def by_process(traced: list[Traced], entries: list[Entry]) -> dict[Traced, list[Entry]]:
    """The entries of each; of those that shared a PID the first one's are before the next one's fork."""
    lives: dict[str | None, list[list[Entry]]] = {}
    for entry in entries:
        of_pid = lives.setdefault(get(entry, "PID"), [])
        if is_of_process(entry, "fork") or not of_pid:
            of_pid.append([])
        of_pid[-1].append(entry)
    in_turn = {pid: iter(of_pid) for pid, of_pid in lives.items()}
    return {one: next(in_turn.get(str(one.pid), iter([])), []) for one in traced}


def get(entry: Entry, name: str) -> str | None:
    value: str | None = entry.get(PREFIX + name)
    return value


def raw(entry: Entry, name: str) -> bytes | None:
    value = entry.get(PREFIX + name)
    return value.encode() if isinstance(value, str) else value


def ancestor_pids(entry: Entry) -> list[int]:
    return [int(pid) for pid in re.findall(r"\[(\d+)\](?= |$)", get(entry, "ANCESTORS") or "")]


@pytest.fixture(scope="module", params=["recorder", "proc"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, helpers: Path) -> Run:
    """Twice the same commands: by the system's shell and by bash, which forks in other ways."""
    directory = tmp_path_factory.mktemp("traced")
    make_files(directory)
    (directory / "commands").write_bytes(b"\n".join(commands(helpers)) + b"\nexit 77\n")
    config = everything_by(request.param).replace("fields: all", f"fields: all, max-argv: {MAX_ARGV}")
    output = directory.parent / "strace"
    traced = strace.command(output, "/bin/sh", "-c", "sh ./commands & bash ./commands; wait $!")
    with RunningDaemon(tmp_path_factory.mktemp("daemon"), config) as daemon:
        assert daemon.process.stdout is not None
        # Long arguments make long lines, of all that inherit them too.
        fcntl.fcntl(daemon.process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with Actor(*traced, cwd=directory, env=environment, **quiet) as actor:
            assert os.waitstatus_to_exitcode(actor.end()) == 77
        assert daemon.stop() == 0
        terms = check_end(daemon.entries[-1])
        assert terms["LOST"] == terms["UNWRITTEN"] == 0
        assert not daemon.having(lambda one: get(one, "EVENT") in ("loss", "blind", "resync"))
    processes = strace.parse(output.read_text())
    root = processes[0].pid
    entries = [one for one in daemon.entries if get(one, "PID") == str(root) or root in ancestor_pids(one)]
    may_miss = request.param == "proc"
    return Run(directory, actor.pid, processes, entries, by_process(processes, entries), may_miss)


def disagreements(run: Run, of_one: Callable[[Run, Traced], list[str]]) -> str:
    """What is wrong, each with what strace saw; empty where nothing is."""
    found = []
    for process in run.traced:
        if wrong := of_one(run, process):
            lines = [line if len(line) < 500 else f"{line[:250]} … {line[-100:]}" for line in process.lines]
            found.append("\n  ".join([f"{process.pid}:", *wrong, *lines]))
    return "\n".join(found)


def test_there_is_enough_to_see(run: Run) -> None:
    assert len(run.traced) > 500
    assert sum(len(process.execs) for process in run.traced) > 400
    assert sum(" = -1 E" in line for process in run.traced for line in process.lines) > 20


def test_every_process_is_there_once_and_no_other(run: Run) -> None:
    forked = Counter(get(entry, "PID") for entry in run.entries if is_of_process(entry, "fork"))
    assert forked == Counter(str(process.pid) for process in run.traced)
    assert sum(map(len, run.by_process.values())) == len(run.entries)
    assert not disagreements(run, lambda run, one: [] if is_one_id(run.ids(one)) else [f"ids {run.ids(one)}"])
    ids = [name for process in run.traced for name in run.ids(process)]
    assert len(ids) == len(set(ids))


def is_one_id(ids: set[str | None]) -> bool:
    """Where the tick went on between start and fork, what is read at an exec corrects the id by one tick."""
    starts = sorted(int((name or "-0").partition("-")[2].partition(".")[0]) for name in ids)
    return len(ids) == 1 or (len(ids) == 2 and starts[0] + 1 == starts[1])


def test_every_parent(run: Run) -> None:
    assert not disagreements(run, wrong_parents)


def wrong_parents(run: Run, process: Traced) -> list[str]:
    """Of all entries on a process."""
    chain = []
    parent = process.parent
    while parent is not None:
        chain.append(parent.pid)
        parent = parent.parent
    chain += [run.strace_pid, os.getpid()]
    wrong = []
    for entry in run.by_process[process]:
        event = get(entry, "EVENT")
        if get(entry, "PPID") != str(chain[0]):
            wrong.append(f"{event}: PPID {get(entry, 'PPID')} for {chain[0]}")
        if ancestor_pids(entry)[: len(chain)] != chain[:32]:
            wrong.append(f"{event}: ANCESTORS {get(entry, 'ANCESTORS')} for {chain}")
        parent_id = get(entry, "PARENT_PROCESS_ID")
        if process.parent is not None and parent_id not in run.ids(process.parent):
            wrong.append(f"{event}: PARENT_PROCESS_ID {parent_id} for {run.ids(process.parent)}")
    return wrong


def test_every_end(run: Run) -> None:
    assert not disagreements(run, wrong_ends)


def wrong_ends(run: Run, process: Traced) -> list[str]:
    entries = run.by_process[process]
    ends = [entry for entry in entries if is_of_process(entry, "exit")]
    if len(ends) != 1:
        return [f"{len(ends)} ends"]
    (end,) = ends
    told = get(end, "EXIT_CODE"), signal_number(get(end, "EXIT_SIGNAL")), get(end, "CORE_DUMPED") == "1"
    code = None if process.exit_code is None else str(process.exit_code)
    true = code, signal_number(process.exit_signal), process.core_dumped
    wrong = [] if told == true else [f"ended with {told} for {true}"]
    if entries[-1] is not end or not is_of_process(entries[0], "fork"):
        wrong.append("it does not begin with its fork, or not end with its end")
    return wrong


def signal_number(name: str | None) -> int | None:
    """Of a signal by any name: strace has SIGRT_1 for what signal(7) calls SIGRTMIN+1, and SIGRTMIN+0 for the first."""
    if name is None:
        return None
    if found := re.fullmatch(r"SIG(RT_|RTMIN\+)(\d+)", name):
        # Strace counts from the kernel's first one, 32; the C library keeps two for itself.
        return int(found[2]) + (32 if found[1] == "RT_" else signal.SIGRTMIN)
    return signal.Signals[name].value


def test_every_thread(run: Run) -> None:
    assert not disagreements(run, wrong_threads)


def wrong_threads(run: Run, process: Traced) -> list[str]:
    told = Counter(get(one, "TID") for one in run.by_process[process] if get(one, "EVENT") == "fork")
    true = Counter(map(str, process.threads))
    return [] if told - Counter([None]) == true else [f"threads {told} for {true}"]


def test_every_exec(run: Run) -> None:
    """In order, with its arguments and its program; what could not be read from /proc is rare, and then absent."""
    told = [entry for entry in run.entries if get(entry, "EVENT") == "exec"]
    words = as_bash_reads_them([get(entry, "CMDLINE") or "" for entry in told])
    by_entry = {id(entry): argv for entry, argv in zip(told, words, strict=True)}
    assert not disagreements(run, lambda run, process: wrong_execs(run, process, by_entry))
    unread = [entry for entry in told if get(entry, "IDENTITY") != "same"]
    assert len(unread) * 100 <= (UNREAD_PERCENT if run.may_miss else 0) * len(told), unread


def wrong_execs(run: Run, process: Traced, words: dict[int, list[bytes]]) -> list[str]:
    entries = [entry for entry in run.by_process[process] if get(entry, "EVENT") == "exec"]
    execs = list(process.execs)
    if process.maybe is not None and len(entries) > len(execs):
        execs.append(process.maybe)
    if len(entries) != len(execs):
        return [f"{len(entries)} execs for {len(execs)}"]
    wrong = []
    # Who takes a new name at once may have it when it is read.
    later_names = {raw(entry, "COMM") for entry in run.by_process[process] if get(entry, "EVENT") == "comm"}
    for entry, true in zip(entries, execs, strict=True):
        if get(entry, "IDENTITY") != "same":
            wrong += [f"{name} is there" for name in ("EXE", "CMDLINE", "COMM") if PREFIX + name in entry]
            continue
        exe, argv = run_by_kernel(run.directory, true)
        if raw(entry, "EXE") != exe:
            wrong.append(f"EXE {raw(entry, 'EXE')!r} for {exe!r}")
        # It is the name of what was given: of a script, the script's. What is given as a descriptor has none.
        names = {os.path.basename(true.path)[:COMM_BYTES], *later_names}
        if true.line.startswith("execve(") and raw(entry, "COMM") not in names:
            wrong.append(f"COMM {raw(entry, 'COMM')!r} for {names}")
        if not is_command_line(entry, words[id(entry)], argv):
            wrong.append(f"CMDLINE {(get(entry, 'CMDLINE') or '')[:300]} for {str(argv)[:300]}")
    return wrong


def run_by_kernel(directory: Path, true: Exec) -> tuple[bytes, list[bytes]]:
    """What execve(2) makes of a path and arguments: the file that is run in the end, and what that is given."""
    path, argv = true.path, true.argv or [b""]
    while True:
        file = os.path.realpath(os.path.join(os.fsencode(directory), path))
        with open(file, "rb") as opened:
            first = opened.readline(256)
        if not first.startswith(b"#!"):
            return file, argv
        # One argument at most, whatever is in it.
        interpreter, *option = first[2:].strip().split(maxsplit=1)
        argv = [interpreter, *option, path, *argv[1:]]
        path = interpreter


def is_command_line(entry: Entry, words: list[bytes], argv: list[bytes]) -> bool:
    if get(entry, "ARGV_TRUNCATED") is None:
        return words == argv
    # The head and the tail, around what says how much is left out.
    whole = b"\0".join(argv) + b"\0"
    found = re.fullmatch(r"(.*) \[…(\d+) bytes…\] (.*)", get(entry, "CMDLINE") or "")
    if found is None or get(entry, "ARGV_BYTES") != str(len(whole)):
        return False
    # None of them needs quotes; each word's end is there as a space, but the last one's.
    head, tail, text = found[1], found[3], b" ".join(argv).decode()
    return (
        text.startswith(head)
        and text.endswith(tail)
        and len(head) + int(found[2]) + len(tail) + 1 == len(whole)
    )


def as_bash_reads_them(cmdlines: list[str]) -> list[list[bytes]]:
    """The words of command lines, pasted into a shell."""
    script = "".join(f"tell {cmdline}\n" for cmdline in cmdlines)
    program = "tell() { printf '%s\\0' $# \"$@\"; }\n" + script
    ran = subprocess.run(["bash", "--norc"], input=program.encode(), stdout=subprocess.PIPE, check=True)
    fields = iter(ran.stdout.removesuffix(b"\0").split(b"\0"))
    return [[next(fields) for _ in range(int(count))] for count in fields]
