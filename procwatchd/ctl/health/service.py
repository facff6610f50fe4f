# SPDX-License-Identifier: MIT
"""`doctor` on the daemon: whether it runs, as what is installed and configured, and keeps up.

Facts:
- What systemctl calls Result says why a unit ended; of the daemon's exit statuses 69, 77 and 78 are not tried again
  [systemd.service(5), procwatchd(8)].
- The daemon runs as a user of its own: what only root may read it cannot read [procwatchd.service].
- ConditionResult is `no` as well for a unit that was never started: then its time is 0 [org.freedesktop.systemd1(5)].
- What is enabled-runtime is so up to the reboot [systemctl(1)].
- adjtimex(2) is told by whatever sets the clock: TIME_ERROR is of one that nobody keeps right, or that chrony does
  without its rtcsync; it fails where system calls are filtered.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator, Mapping

from procwatchd import __version__
from procwatchd.config import DROP_IN_DIRECTORY, MAIN_FILE
from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.journal_entries import Entries, slept_usec, when_usec
from procwatchd.ctl.health.metricsfile import Metrics, read_metrics
from procwatchd.ctl.health.status import STALE_USEC, imbalances
from procwatchd.ctl.health.system import Finding, System, fail, ok, warn
from procwatchd.ctl.past.entries import text_of
from procwatchd.ctl.rules.check import useless
from procwatchd.ctl.show.figures import date, span
from procwatchd.errors import ConfigError
from procwatchd.journal.quote import printable
from procwatchd.rules.redact import KEY_BYTES
from procwatchd.runtime import KEY_FILE
from procwatchd.trusted import DAEMON_USER

MANY_WAITING = 50_000  # events: some seconds of a storm
SHOWN = 3  # problems of a configuration
RELOADS_LIMIT = 100  # that are looked at
_KEPT = ", keeping the previous one: "  # of a reload that was refused [daemon.py]

_TIME_ERROR = 5
# struct timex is 208 bytes or less, and begins with what is to be changed: nothing.
_TIMEX_BYTES = 512

_EXIT_STATUSES = {
    "69": "the kernel cannot do it (see 'kernel', 'namespaces', 'events')",
    "75": "another one runs with the same runtime directory",
    "77": "it has no permission (see 'capabilities')",
    "78": "the configuration is bad (see 'configuration')",
}
_LOG = "journalctl -u procwatchd -n 50"


def unit(system: System) -> Iterator[Finding]:
    """What the service manager says."""
    found = system.unit
    if not found:
        if system.daemon_pid is not None:
            yield ok("service", f"it runs as process {system.daemon_pid}; {system.why_no_unit}")
        else:
            yield warn("service", f"not looked at: {system.why_no_unit}")
    elif found.get("LoadState") == "not-found":
        runs = "" if system.daemon_pid is None else f"; one runs without it, as process {system.daemon_pid}"
        yield warn(
            "service", f"procwatchd.service is not installed{runs}", "install the package, or: make install"
        )
    elif found.get("LoadState") == "masked":
        pid = system.main_pid
        what = f"it runs, as process {pid}, but will not start again" if pid else "it does not start"
        text = f"procwatchd.service is masked: {what}"
        yield fail("service", text, "systemctl unmask procwatchd; systemctl start procwatchd")
    elif found.get("LoadState") != "loaded":
        text = f"procwatchd.service cannot be loaded: {found.get('LoadState', '')}"
        yield fail("service", text, "systemd-analyze verify procwatchd.service")
    else:
        yield _state(system)
        yield from _restarts(system)
        yield from _drop_ins(system)
        yield from _journal_namespace(system)


def _state(system: System) -> Finding:
    found = system.unit
    state, result = found.get("ActiveState", "?"), found.get("Result", "")
    is_enabled = found.get("UnitFileState", "") in ("enabled", "enabled-runtime")
    if state == "failed" or result not in ("", "success"):
        if result == "start-limit-hit":
            text = "it was started too often in too short a time, and is not tried again (start-limit-hit)"
            return fail(
                "service",
                text,
                f"{_LOG}; then systemctl reset-failed procwatchd && systemctl start procwatchd",
            )
        status = found.get("ExecMainStatus", "")
        why = _EXIT_STATUSES.get(status, f"exit status {status}") if result == "exit-code" else result
        return fail("service", f"it is {state}: {why}", f"{_LOG}; then systemctl restart procwatchd")
    if state in ("active", "reloading"):
        return _running(found)
    if system.main_pid:
        return warn(
            "service", f"it is {state}, process {system.main_pid}", "see whether that ends: run this again"
        )
    if system.daemon_pid is not None:
        return warn("service", f"it is {state}, but one runs as process {system.daemon_pid}, by hand")
    was_asked = found.get("ConditionTimestampMonotonic", "0") != "0"
    if found.get("ConditionResult") == "no" and was_asked and is_enabled:
        return fail("service", "it did not start: a condition of the unit does not hold (a container?)", _LOG)
    if is_enabled:
        return fail("service", f"it is {state}, though enabled", "systemctl start procwatchd")
    return warn("service", f"it is {state}, and not enabled", "systemctl enable --now procwatchd")


def _running(found: Mapping[str, str]) -> Finding:
    how = {"enabled": "enabled", "enabled-runtime": "enabled up to the next reboot"}
    state = found.get("UnitFileState", "")
    text = f"it is {found['ActiveState']}, process {found.get('MainPID')}, {how.get(state, 'not enabled')}"
    if found.get("StatusText"):
        text += f": {found['StatusText']}"
    advice = "systemctl enable procwatchd, or it does not run after a reboot"
    return ok("service", text) if state == "enabled" else warn("service", text, advice)


def _restarts(system: System) -> Iterator[Finding]:
    restarts = system.unit.get("NRestarts", "0")
    if restarts.isdecimal() and int(restarts):
        text = f"systemd had to start it again {restarts} times since it was last started by hand"
        yield warn("restarts", text, _LOG, restarts=int(restarts))


def _drop_ins(system: System) -> Iterator[Finding]:
    if system.unit.get("NeedDaemonReload") == "yes":
        yield warn(
            "unit file",
            "it was changed since systemd read it",
            "systemctl daemon-reload, then systemctl restart procwatchd",
        )
    paths = system.unit.get("DropInPaths", "").split()
    if paths:
        yield ok("unit file", f"changed by {', '.join(paths)}")


def _journal_namespace(system: System) -> Iterator[Finding]:
    """Journald has journals of its own for each, which nobody else reads."""
    name = system.unit.get("LogNamespace")
    if name:
        text = f"its entries go to the journal namespace {name}, where procwatchctl does not look: LogNamespace={name}"
        advice = (
            f"systemctl edit procwatchd: LogNamespace= with nothing; until then journalctl --namespace={name}"
        )
        yield fail("journal namespace", text, advice)


def versions(system: System) -> Iterator[Finding]:
    """Whether what runs is what is installed."""
    if system.daemon_pid is None:
        yield ok("version", f"procwatchctl is {__version__}; no daemon runs", version=__version__)
        return
    running = _running_version(system)
    if not running:
        yield warn("version", f"procwatchctl is {__version__}; which the daemon is, is not known")
    elif running != __version__:
        text = f"the daemon is {running}, what is installed {__version__}"
        yield warn("version", text, "systemctl restart procwatchd", version=__version__, running=running)
    else:
        yield ok("version", f"{__version__}, the daemon as well", version=__version__, running=running)


def _running_version(system: System) -> str:
    """By the metrics, else by the start entry; "" where neither says."""
    try:
        version = read_metrics(system.metrics_file).version
        entries = [] if version else Entries(system.journal_root).own("start")
    except CtlError:
        return ""
    return printable(version or (text_of(entries[0], "VERSION") if entries else ""))


def configuration(system: System) -> Iterator[Finding]:
    """Whether the daemon would take it, what in it is of no use, and whether it has what is there now."""
    if hidden := _hidden(system):
        yield warn("configuration", f"not looked at: you may not read {hidden}", "run this as root")
        return
    try:
        config = system.load_config()
    except ConfigError as error:
        count, shown = len(error.problems), "; ".join(error.problems[:SHOWN])
        yield fail(
            "configuration", f"{count} problems: {shown}", "procwatchctl check", problems=error.problems
        )
        return
    files = ", ".join(config.files) or "the built-in defaults"
    warnings = [*config.sigma.problems, *useless(config)]
    if warnings:
        text = f"{files}: {len(warnings)} warnings: {'; '.join(warnings[:SHOWN])}"
        yield warn("configuration", text, "procwatchctl check", warnings=warnings)
    else:
        yield ok(
            "configuration",
            f"{files}: {len(config.rules.rules)} rules, {len(config.sigma.rules)} Sigma rules",
        )
    yield from _changes(system, config.files)


def _changes(system: System, files: tuple[str, ...]) -> Iterator[Finding]:
    """Files that were written after the daemon read them."""
    if system.daemon_pid is None or not files:
        return
    try:
        told = Entries(system.journal_root).own("start", "reload", limit=RELOADS_LIMIT)
    except CtlError:
        return
    read = [entry for entry in told if _KEPT not in str(entry.get("MESSAGE"))]
    if not read:
        return
    newer = [path for path in files if os.stat(path).st_mtime_ns // 1000 > when_usec(read[0])]
    if newer:
        text = f"{', '.join(newer)} changed after the daemon read it, {date(when_usec(read[0]))}"
        yield warn("configuration", text, "systemctl reload procwatchd")


def permissions(system: System) -> Iterator[Finding]:
    """Whether the daemon's user may read its files. Whether others may write them is the configuration's check."""
    paths = _config_paths(system)
    bad = [path for path in paths if not _may_read(path, system.daemon_uid, system.daemon_gids)]
    if bad:
        text = f"the daemon's user may not read {', '.join(bad)}"
        yield fail("permissions", text, f"chmod a+rX {' '.join(bad)}")
    elif hidden := _hidden(system):
        yield warn("permissions", f"not looked at: you may not read {hidden}", "run this as root")
    elif paths:
        yield ok("permissions", f"the daemon's user, {DAEMON_USER}, may read all of its files")


def _config_paths(system: System) -> list[str]:
    """The file, the directory, and the files in it, as far as it may be read."""
    directory = system.root + DROP_IN_DIRECTORY
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError, PermissionError):
        names = [name for name in sorted(os.listdir(directory)) if name.endswith(".yaml")]
    paths = [system.root + MAIN_FILE, directory, *(f"{directory}/{name}" for name in names)]
    return [path for path in paths if os.path.exists(path)]


def _hidden(system: System) -> str:
    """The first of these that whoever runs this may not read; "" for none."""
    paths = _config_paths(system)
    return next((path for path in paths if not os.access(path, _needed(path), effective_ids=True)), "")


def _needed(path: str) -> int:
    return os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK


def _may_read(path: str, uid: int | None, gids: frozenset[int]) -> bool:
    """By its mode: what is its owner's or its group's is not asked of all others."""
    status = os.stat(path)
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in gids else 0
    return uid == 0 or status.st_mode >> shift & _needed(path) == _needed(path)


def redaction_key(system: System) -> Iterator[Finding]:
    """Whether the marks of hidden secrets stay the same from start to start."""
    path = f"{system.state_directory}/{KEY_FILE}"
    try:
        status = os.lstat(path)
    except PermissionError:
        yield warn("redaction key", f"not looked at: {path} is for root and the daemon", "run this as root")
        return
    except OSError:
        if system.daemon_pid is None:
            yield ok("redaction key", f"there is no {path} yet: the first start makes it")
        else:
            advice = "see that the daemon may write to its StateDirectory, then restart it"
            yield warn("redaction key", f"there is no {path}: marks of secrets are of one run alone", advice)
        return
    is_its = system.daemon_uid in (None, status.st_uid)
    if (
        not stat.S_ISREG(status.st_mode)
        or status.st_size != KEY_BYTES
        or status.st_mode & 0o077
        or not is_its
    ):
        text = f"{path} is not a file of {KEY_BYTES} bytes for its owner, the daemon's user, alone"
        yield fail(
            "redaction key", text, f"rm {path}; systemctl restart procwatchd makes a new one, with new marks"
        )
    else:
        yield ok("redaction key", f"{path} is there, for its owner alone")


def table(system: System) -> Iterator[Finding]:
    """What the daemon counts: whether it goes on, keeps up, and its account adds up."""
    if system.daemon_pid is None:
        return
    try:
        metrics = read_metrics(system.metrics_file)
    except CtlError as error:
        yield warn(
            "metrics", str(error), "the first are written a minute after the start; is the disk of /run full?"
        )
        return
    age = system.now_usec - metrics.written_usec
    if age - _slept_usec(system) > STALE_USEC:
        text = f"the daemon wrote its metrics {span(age)} ago, where it does so each minute: it hangs, or /run is full"
        yield fail("metrics", text, "df /run; systemctl restart procwatchd", age_usec=age)
        return
    yield from _counts(metrics)


def _slept_usec(system: System) -> int:
    """For how long since the daemon was last heard of."""
    try:
        last = Entries(system.journal_root).own()
    except CtlError:
        return 0
    return slept_usec(last[0], system) if last else 0


def _counts(metrics: Metrics) -> Iterator[Finding]:
    count = metrics.counts
    if count.get("BLIND"):
        yield fail(
            "events",
            "the kernel tells the daemon of no events now; it tries to be heard again",
            "see 'blindness'",
        )
    if count.get("FAILURES"):
        yield fail(
            "metrics", f"{count['FAILURES']:,} events met an error of the daemon's own", f"{_LOG}; report it"
        )
    for one in imbalances(count):
        yield warn("ledger", f"the account does not add up: {one}", "procwatchctl status", problem=one)
    waiting = count.get("PENDING", 0) + count.get("QUEUED", 0)
    text = f"{count.get('PROCESSES', 0):,} processes known, {waiting:,} events wait"
    values = {"processes": count.get("PROCESSES", 0), "waiting": waiting}
    if waiting > MANY_WAITING:
        yield warn(
            "table",
            f"{text}: the daemon does not keep up",
            "rules that drop more; procwatchctl top",
            **values,
        )
    else:
        yield ok("table", text, **values)


def clock(system: System) -> Iterator[Finding]:
    """Whether somebody keeps the machine's clock right."""
    if not system.is_real:
        return
    state = _adjtimex()
    if state < 0:
        yield warn("clock", "not looked at: this may not ask the kernel about it", "run this on the host")
    elif state == _TIME_ERROR:
        text = "entries of several machines cannot be put in order by it"
        advice = "enable systemd-timesyncd or chrony: timedatectl set-ntp true"
        yield warn("clock", f"it is not synchronised (or chrony runs without rtcsync): {text}", advice)
    else:
        yield ok("clock", "it is synchronised")


def _adjtimex() -> int:
    """The state of the kernel's clock; -1 where the call is not allowed."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
