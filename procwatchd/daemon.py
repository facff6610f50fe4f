# SPDX-License-Identifier: MIT
"""procwatchd, the command: start, signals, watchdog, reload, statistics, stop.

The main thread has all this; the listener and the worker are threads of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait

from systemd import id128

from procwatchd import __version__
from procwatchd.config import Config, load_config
from procwatchd.errors import ConfigError, DeniedError, KernelError, ProcwatchError
from procwatchd.forkwatch import KernelForks
from procwatchd.journal.jsonlines import JsonWriter
from procwatchd.journal.kinds import NOTICE, WARNING
from procwatchd.journal.message import duration
from procwatchd.journal.native import SOCKET as JOURNAL_SOCKET
from procwatchd.journal.native import JournaldWriter
from procwatchd.journal.text import TextWriter
from procwatchd.journal.writer import Writer
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.bell import Bell
from procwatchd.kernel.clock import Clock
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.heartbeat import Blindness
from procwatchd.kernel.listener import Listener
from procwatchd.kernel.marks import LAYOUT, Marks
from procwatchd.kernel.priority import may_run_in_real_time
from procwatchd.kernel.queue import BatchQueue
from procwatchd.kernel.recorder import Recorder, identity, is_whole
from procwatchd.metrics import metrics_text
from procwatchd.notify import notify
from procwatchd.process.procfs import may_read_environment
from procwatchd.process.users import Users
from procwatchd.rules.redact import KEY_BYTES
from procwatchd.runtime import RuntimeDirectory, keep_key
from procwatchd.store import Store
from procwatchd.tape import Tape, TapeError
from procwatchd.worker import Worker

STATISTICS_SECONDS = 600.0
# Between two comparisons of the FORKs with the kernel's own count.
CHECK_SECONDS = 60.0
TURN_SECONDS = 15.0
DRAIN_SECONDS = 10.0
# How often more it is asked for the last ACK, and for how long each is waited for.
LAST_ASKS, LAST_ACK_SECONDS = 3, 0.5
# Between two looks at whether a configuration is loaded, and for how long it is waited for.
LOADING_SECONDS = 1.0
LOADING_MOST_SECONDS = 300.0
# Of Sigma rules that could not be loaded, in an entry; `--check` tells all.
SIGMA_PROBLEMS_SHOWN = 3

# What is kept over a restart. The marks have their layout in their name.
CONNECTOR, ACCOUNTING, MARKS, STATE = "proc-connector", "taskstats", f"marks-{LAYOUT}", "state"

_WAKE = signal.SIGUSR2
_ENDING = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_ENDING, signal.SIGHUP, signal.SIGUSR1, _WAKE}


class NotLoadedError(Exception):
    """A configuration is not waited for any more."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    _open_standard_streams()
    options = _parse(arguments)
    try:
        config = load_config(options.config)
        if options.check:
            for problem in config.sigma.problems:
                print(f"warning: {problem}", file=sys.stderr)
            print(f"configuration is fine: {_describe(config)}")
            return 0
        # Before any thread is there, so that they all have the signals blocked and only the main thread takes them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with contextlib.closing(RuntimeDirectory()) as directory:
            tape = None if options.record is None else Tape(options.record)
            return Daemon(config, options, directory, tape).run()
    except TapeError as error:
        print(f"procwatchd: {error}", file=sys.stderr)
        return 2
    except ProcwatchError as error:
        print(f"procwatchd: {error}" if not isinstance(error, ConfigError) else error, file=sys.stderr)
        return error.exit_status


def _open_standard_streams() -> None:
    """See to it that no socket or lock becomes standard output, where whoever started us closed that."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="procwatchd",
        description="Logs the lifecycle of processes to the systemd journal.",
        epilog="See procwatchd(8), procwatchd.yaml(5), procwatchd.fields(7).",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="this configuration alone, instead of the one in /etc"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument(
        "--output",
        choices=("auto", "journal", "text", "json"),
        default="auto",
        help="where entries go: auto is the journal where its socket is, else text (default: %(default)s)",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="write to a new file, too, all that rules look at, secrets and all; see procwatchctl(1)",
    )
    parser.add_argument("--version", action="version", version=f"procwatchd {__version__}")
    return parser.parse_args(arguments)


class Daemon:
    """From start to stop."""

    def __init__(
        self,
        config: Config,
        options: argparse.Namespace,
        directory: RuntimeDirectory,
        tape: Tape | None = None,
    ) -> None:
        self._options = options
        self._boot_id = id128.get_boot().hex
        self._directory = directory
        self._clock = Clock()
        self._users = Users()
        self._store = store = Store()
        # One is nothing without the other, and all else that is kept belongs to what the socket holds.
        if not store.has(MARKS, CONNECTOR):
            store.drop_rest()
        kept = store.take(CONNECTOR)
        self._marks = marks = Marks(store.take(MARKS))
        # First of all: where another program listens, events come from the moment that there is a socket.
        self._recorder, self._no_recorder = _open_recorder(config, store, marks)
        self._connector = Connector(config.capture.receive_buffer_bytes, kept=kept, marks=marks)
        self._batches = BatchQueue()
        self._accounting, self._no_accounting = _open_accounting(config, store, marks)
        self._listener = Listener(self._connector, self._batches, self._accounting, self._recorder, marks)
        self._writer = _open_writer(options.output, self._boot_id)
        redaction_key, self._no_redaction_key = keep_key(KEY_BYTES)
        self._worker = Worker(
            config,
            self._batches,
            self._writer,
            self._clock,
            self._users,
            open_bell=Bell,
            is_recording=self._recorder is not None,
            is_recorder_kept=self._recorder is not None and self._recorder.is_kept,
            connector=self._connector,
            accounting=self._accounting,
            marks=marks,
            state=store.take_memory(STATE),
            process_forks=self._process_forks,
            want_acks=self._want_acks,
            on_danger=self._listener.doubt,
            redaction_key=redaction_key,
            tape=tape,
        )
        self._acks_wanted = False
        # Blindnesses that are over and still to be told.
        self._blindnesses: deque[Blindness] = deque()
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._asked_at_start = (config.capture.accounting, config.capture.arguments)
        self._config = config
        self._problem = ""
        self._loading: Future[Config] | None = None
        self._next_statistics = time.monotonic() + STATISTICS_SECONDS
        self._progress = (0, 0)
        self._listening_since_usec = 0

    def run(self) -> int:
        """Start, serve until a signal or the end of the output, stop. Gives the exit status."""
        self._start()
        status = 0
        try:
            while self._serve():
                pass
            if not self._listener.running:
                print(f"procwatchd: receiving failed: {self._listener.error}", file=sys.stderr)
                status = 69
            elif not self._worker.running and not self._writer.broken:
                print("procwatchd: the worker ended unexpectedly", file=sys.stderr)
                status = 70
        finally:
            self._stop()
        return status

    def _start(self) -> None:
        self._users.start()
        self._worker.begin()
        if self._accounting is not None and not self._accounting.is_kept:
            while self._accounting.receive():
                pass  # of tasks whose EXIT was before
        early = self._connector.subscribe()
        listening_since_ns = time.monotonic_ns()
        self._listening_since_usec = listening_since_ns // 1000
        if self._connector.was_deaf:
            # How much was missed is shown by the forks, if at all.
            missed = Blindness(self._connector.heard_until_ns, listening_since_ns)
            self._worker.ask(lambda: self._worker.tell_blindness(missed))
        self._listener.start(early, self._wake, self._notice)
        self._keep()
        if not self._worker.is_restored:
            self._worker.scan()
        # What start-up made lives for ever, and what an event makes is in no cycle: the collector, there for
        # the odd exception, need not look at either again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        self._write_start()
        self._worker.start(self._wake)
        # The first comparison of the forks: from here on they are counted together.
        self._after_acks(self._check)
        self._notify("READY=1", self._status())

    def _keep(self) -> None:
        """Have the service manager keep what the next one needs, should it start us again."""
        self._store.drop_rest()
        self._store.keep(MARKS, self._marks.fd)
        self._store.keep(CONNECTOR, self._connector.fileno())
        if self._accounting is not None:
            self._store.keep(ACCOUNTING, self._accounting.fileno())
        if self._recorder is not None:
            for name, fd in self._recorder.fds.items():
                self._store.keep(_recorder_prefix() + name, fd)

    def _write_start(self) -> None:
        worker, connector = self._worker, self._connector
        priority = _how_bad(self._config)
        text = f"start: procwatchd {__version__}, {len(worker.table)} processes, {_describe(self._config)}"
        if connector.receive_buffer_bytes < connector.receive_buffer_wanted:
            priority = WARNING
            text += (
                f"; the kernel grants a receive buffer of {connector.receive_buffer_bytes} bytes only, not "
                f"{connector.receive_buffer_wanted}: bursts may be lost (CAP_NET_ADMIN is missing)"
            )
        if self._no_recorder:
            text += f"; arguments by /proc alone: {self._no_recorder}"
            if not may_run_in_real_time():
                text += ", and not in real time (LimitRTPRIO=1 or CAP_SYS_NICE is missing), so that more are missed"
        if self._config.capture.environment and not may_read_environment():
            priority = WARNING
            text += "; of others' processes no environment can be read (CAP_DAC_READ_SEARCH is missing)"
        if self._no_accounting:
            text += f"; ends only as far as the connector tells of them: {self._no_accounting}"
        if self._no_redaction_key:
            text += f"; marks of secrets are of this run alone: {self._no_redaction_key}"
        since_usec = self._directory.last_listened_usec(self._boot_id)
        if self._connector.was_deaf:
            since_usec = self._connector.heard_until_ns // 1000
        elif self._connector.is_kept:
            since_usec = None  # the kernel went on to tell
        if self._connector.is_kept:
            text += f"; kept over the restart: {', '.join(self._kept())}"
        until_usec = None if since_usec is None else self._listening_since_usec
        if since_usec is not None:
            text += (
                f"; nobody listened for {duration((self._listening_since_usec - since_usec) * 1000)} before"
            )
        self._writer.write(
            worker.builder.own(
                "start",
                text,
                priority,
                since_usec=since_usec,
                until_usec=until_usec,
                version=__version__,
                processes=len(worker.table),
                receive_buffer=connector.receive_buffer_bytes,
                kept=" ".join(self._kept()) or None,
            )
        )

    def _kept(self) -> list[str]:
        """What was kept for us."""
        kept = {
            "connector": self._connector.is_kept and not self._connector.was_deaf,
            "accounting": self._accounting is not None and self._accounting.is_kept,
            "recorder": self._recorder is not None and self._recorder.is_kept,
            "table": self._worker.is_restored,
        }
        return [name for name, is_kept in kept.items() if is_kept]

    def _serve(self) -> bool:
        """One turn of the main thread; False when it is time to stop."""
        arrived = signal.sigtimedwait(_SIGNALS, self._turn_seconds())
        number = None if arrived is None else arrived.si_signo
        if number in _ENDING:
            return False
        if number == signal.SIGHUP:
            self._reload()
        now = time.monotonic()
        if number == signal.SIGUSR1 or now >= self._next_statistics:
            self._next_statistics = now + STATISTICS_SECONDS
            self._after_acks(self._write_statistics)
        while self._blindnesses:
            self._tell_blindness(self._blindnesses.popleft())
        if self._acks_wanted or now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self._after_acks(self._check)
        self._pet_watchdog()
        return self._is_running

    def _process_forks(self) -> int | None:
        """How many processes, not threads, the kernel has forked, where somebody counts."""
        return None if self._recorder is None else self._recorder.process_forks

    def _want_acks(self) -> None:
        """Have an ACK of each CPU asked for, soon; from any thread."""
        self._acks_wanted = True
        self._wake()

    def _notice(self, blindness: Blindness) -> None:
        """The kernel tells nothing any more, or tells again; on the listener's thread."""
        if blindness.until_ns is None:
            self._worker.ask(lambda: self._worker.tell_blindness(blindness))
        else:
            self._blindnesses.append(blindness)
        self._want_acks()

    def _tell_blindness(self, blindness: Blindness) -> None:
        self._after_acks(lambda forks, _ack: self._worker.tell_blindness(blindness, forks))

    def _after_acks(self, action: Callable[[KernelForks | None, int | None], None]) -> None:
        """Have the worker do something when nothing can be missing unseen of what was sent by now.

        It is given how many forks the kernel had counted by now, and the number of the ACK from just after.
        """
        self._acks_wanted = False
        forks, ack = self._ask_for_acks()
        self._worker.ask(lambda: action(forks, ack), after=ack)

    def _ask_for_acks(self) -> tuple[KernelForks | None, int | None]:
        """Ask each CPU for an ACK, so that its sequence number is known; gives the forks by then, and the last ACK."""
        forks = self._worker.fork_watch.kernel_forks()
        with contextlib.suppress(OSError):
            self._connector.ask_on_every_cpu()
            forks = self._worker.fork_watch.kernel_forks()
            return forks, self._connector.ask()
        return forks, None

    def _ask_for_last_acks(self) -> KernelForks | None:
        """The same before the end: where the socket is full an ACK is dropped like all else, and asked for again."""
        forks, ack = self._ask_for_acks()
        for _ in range(LAST_ASKS if self._is_running else 0):
            heard = threading.Event()
            if ack is not None:
                self._worker.ask(heard.set, after=ack)
            # What is still unlocated was lost on a CPU whose own ACK was dropped, though the last one was not.
            if heard.wait(LAST_ACK_SECONDS) and not self._worker.ledger.unlocated:
                break
            forks, ack = self._ask_for_acks()
        return forks

    @staticmethod
    def _wake() -> None:
        """End the main thread's wait for a signal; from any thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)

    def _turn_seconds(self) -> float:
        """Until there is something to do; at least twice as often as systemd wants to hear from us."""
        due = min(self._next_statistics, self._next_check) - time.monotonic()
        watchdog_usec = int(os.environ.get("WATCHDOG_USEC", "0") or 0)
        turn = min(TURN_SECONDS, watchdog_usec / 2_000_000) if watchdog_usec else TURN_SECONDS
        return max(0.0, min(turn, due))

    def _pet_watchdog(self) -> None:
        """Tell systemd that we are alive, if listener and worker have moved since they were poked the last time."""
        progress = (self._listener.progress, self._worker.progress)
        if progress[0] != self._progress[0] and progress[1] != self._progress[1]:
            self._progress = progress
            self._notify("WATCHDOG=1", self._status())
        self._listener.poke()
        self._worker.poke()

    def _reload(self) -> None:
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
        except ConfigError as error:
            self._refuse("bad configuration", error.problems[0], "; ".join(error.problems))
        except NotLoadedError as error:
            self._refuse("not loaded", str(error), str(error))
        except Exception as error:  # of ours: it must not cost what runs
            self._refuse("internal error", repr(error), traceback.format_exc())
        else:
            self._problem = ""
            self._config = config
            self._worker.ask(lambda: self._apply(config))
        self._notify("READY=1", self._status())

    def _load(self) -> Config:
        """The configuration as it is written now. Many Sigma rules take their time, which the watchdog gives.

        Raises NotLoadedError where it takes too long, as a file system may hang, or where there is an end to come to.
        """
        if self._loading is not None and not self._loading.done():
            raise NotLoadedError("the load before this one has not ended yet")
        loading = self._loading = _begin_to_load(self._options.config)
        deadline = time.monotonic() + LOADING_MOST_SECONDS
        while wait([loading], LOADING_SECONDS).not_done:
            # The signal stays pending, for the next turn to find.
            if signal.sigpending() & _ENDING or not self._is_running:
                raise NotLoadedError("procwatchd is about to end")
            if time.monotonic() >= deadline:
                raise NotLoadedError(f"it took more than {LOADING_MOST_SECONDS:g} seconds")
            self._pet_watchdog()
        return loading.result()

    @property
    def _is_running(self) -> bool:
        """Whether those are that do the work."""
        return self._listener.running and self._worker.running

    def _refuse(self, why: str, shown: str, told: str) -> None:
        """Tell that the configuration stays, and why: in the status, and in the journal."""
        self._problem = f"{why}, keeping the previous rules: {shown}"
        text = f"reload: {why}, keeping the previous one: {told}"
        self._worker.ask(lambda: self._writer.write(self._worker.builder.own("reload", text, WARNING)))

    def _apply(self, config: Config) -> None:
        try:
            self._worker.configure(config)
        except (KernelError, DeniedError) as error:
            self._problem = f"configuration not applied, keeping the previous rules: {error}"
            self._notify(self._status())
            text = f"reload: not applied, keeping the previous one: {error}"
            self._writer.write(self._worker.builder.own("reload", text, WARNING))
            return
        self._want_acks()  # to begin comparing the forks anew, if others are counted now
        text = f"reload: {_describe(config)}"
        if config.capture.receive_buffer_bytes != self._connector.receive_buffer_wanted:
            text += "; the new receive-buffer takes a restart"
        if (config.capture.accounting, config.capture.arguments) != self._asked_at_start:
            text += "; the new accounting or arguments take a restart"
        self._writer.write(self._worker.builder.own("reload", text, _how_bad(config)))

    def _stop(self) -> None:
        self._notify("STOPPING=1", "STATUS=Writing what was received")
        kernel_forks = self._ask_for_last_acks()
        stopped_usec = time.monotonic_ns() // 1000
        self._listener.stop()
        self._directory.write_stopped(self._boot_id, stopped_usec)
        # Of a worker that failed nothing is to be taken on.
        is_well = self._worker.running
        if is_well:
            self._worker.stop()
        self._writer.wait(DRAIN_SECONDS)
        self._write_terms("stop", kernel_forks)
        self._writer.flush()
        if self._writer.wait(DRAIN_SECONDS):
            self._worker.losses.mark_told()
        self._worker.settle()
        self._writer.close()
        self._users.close()
        stays = self._store.is_there
        if stays and is_well:
            self._leave()
        self._connector.close(stays=stays)
        self._worker.close()
        if self._accounting is not None:
            self._accounting.close(stays=stays)
        if self._recorder is not None:
            self._recorder.close()
        self._batches.close()

    def _leave(self) -> None:
        """Have kept what the worker knows; where that fails, whoever comes after us looks for itself."""
        try:
            self._store.keep_memory(STATE, self._worker.leave)
        except Exception as error:
            print(f"procwatchd: what is known cannot be kept: {error!r}", file=sys.stderr)
        self._store.settle()

    def _check(self, kernel_forks: KernelForks | None, ack: int | None) -> None:
        """What is done each minute, and after what is worth an alert: the metrics are as fresh as that."""
        self._worker.check_forks(kernel_forks, ack)
        fields = {**self._worker.terms(), **self._worker.more_terms(kernel_forks)}
        self._directory.write_metrics(metrics_text(fields, self._worker.decided()))

    def _write_statistics(self, kernel_forks: KernelForks | None, ack: int | None) -> None:
        self._worker.check_forks(kernel_forks, ack)
        self._write_terms("statistics", kernel_forks)

    def _write_terms(self, kind: str, kernel_forks: KernelForks | None) -> None:
        """The ledger, as an entry and for Prometheus. `kind` is statistics or stop."""
        terms = self._worker.terms()
        lost = terms["LOST"] + terms["UNWRITTEN"]
        text = (
            f"{kind}: {terms['RECEIVED']} events received, {terms['LOGGED']} logged, {terms['DROPPED']} dropped by "
            f"rules, {terms['COUNTED'] + terms['LIMITED']} summarised, {lost} lost; {len(self._worker.table)} processes"
        )
        fields = {**terms, **self._worker.more_terms(kernel_forks)}
        self._writer.write(self._worker.builder.own(kind, text, **fields))
        self._directory.write_metrics(metrics_text(fields, self._worker.decided()))

    def _status(self) -> str:
        if self._problem:
            return f"STATUS={self._problem}"
        if self._worker.losses.is_blind:
            return "STATUS=Blind: the kernel tells of no events; trying to be heard again"
        writer, ledger = self._writer, self._worker.ledger
        lost = ledger.lost + ledger.failed + writer.unwritten_events
        logged = writer.written_events - ledger.summarised
        return (
            f"STATUS={logged} entries logged, {ledger.dropped} events dropped by rules, "
            f"{ledger.counted + ledger.limited} summarised, {lost} lost"
        )

    @staticmethod
    def _notify(*lines: str) -> None:
        notify("\n".join(lines))


def _begin_to_load(path: str | None) -> Future[Config]:
    """Load a configuration in a thread of its own, which the end of the process does not wait for."""
    loading = Future[Config]()

    def load() -> None:
        try:
            loading.set_result(load_config(path))
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=load, name="loader", daemon=True).start()
    return loading


def _open_accounting(config: Config, store: Store, marks: Marks) -> tuple[Accounting | None, str]:
    """What tells of ends, as the configuration asks for; or why there is none. Raises where there must be one."""
    if config.capture.accounting == "off":
        return None, "capture.accounting is off"
    try:
        kept = store.take(ACCOUNTING)
        return Accounting(config.capture.receive_buffer_bytes, kept=kept, marks=marks), ""
    except (KernelError, DeniedError) as error:
        if config.capture.accounting == "on":
            raise
        return None, str(error)


def _open_recorder(config: Config, store: Store, marks: Marks) -> tuple[Recorder | None, str]:
    """The same for what records execs."""
    if config.capture.arguments == "proc":
        return None, "capture.arguments is proc"
    try:
        prefix = _recorder_prefix()
        kept = store.take_all(prefix)
        if not is_whole(kept):
            store.give_back(prefix, kept)
            kept = {}
        return Recorder(kept=kept, marks=marks), ""
    except (KernelError, DeniedError) as error:
        if config.capture.arguments == "recorder":
            raise
        return None, str(error)


def _recorder_prefix() -> str:
    """What the names of the recorder's descriptors begin with."""
    return f"recorder-{identity()}-"


def _describe(config: Config) -> str:
    files = ", ".join(config.files) if config.files else "the built-in defaults"
    text = f"{_count(len(config.rules.rules), 'rule')} from {files}"
    sigma = config.sigma
    if sigma.rules or sigma.others or sigma.problems:
        text += f"; {_count(len(sigma.rules), 'Sigma rule')}"
    if sigma.problems:
        shown = "; ".join(sigma.problems[:SIGMA_PROBLEMS_SHOWN])
        text += f", and {_count(len(sigma.problems), 'problem')} with others: {shown}"
        text += "; …" if len(sigma.problems) > SIGMA_PROBLEMS_SHOWN else ""
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _how_bad(config: Config) -> int:
    """The priority of an entry that describes a configuration."""
    return WARNING if config.sigma.problems else NOTICE


def _open_writer(output: str, boot_id: str) -> Writer:
    if output == "auto":
        output = "journal" if os.path.exists(JOURNAL_SOCKET) else "text"
    if output == "journal":
        return JournaldWriter(os.environ.get("PROCWATCHD_JOURNAL_SOCKET", JOURNAL_SOCKET))
    if output == "json":
        return JsonWriter(1, boot_id=boot_id, hostname=socket.gethostname())
    return TextWriter(1)


if __name__ == "__main__":
    sys.exit(main())
