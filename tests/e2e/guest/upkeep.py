# SPDX-License-Identifier: MIT
"""Restart, reload, upgrade and a crash amid a steady load: what is told of it."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.guest.load import RATE, Load
from tests.e2e.guest.report import check, note, wait_until
from tests.e2e.guest.service import Entries, configure, field, main_pid, of, shown, systemctl

ALL_OF_THE_LOAD = "capture: {events: [fork, exec, exit]}\nlog: {limit: off}\n"
# An upgrade is a load of its own, under which an emulated processor would take minutes beside a full one.
UPGRADE_RATE = RATE / 4
# Events of others than the load, in the fraction of a second that the daemon may have in hand.
OF_OTHERS = 10
TERMS = ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING")
CONSIDERED = ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN")


def as_shipped_but_unlimited() -> None:
    """So that the load is told whole."""
    configure("log: {limit: off}\n")
    done = systemctl("restart")
    check("it starts with the shipped rules", done.returncode == 0, done.stdout)


def restart_under_load() -> None:
    _nothing_is_lost("restart", lambda: systemctl("restart").returncode == 0)


def reload_under_load() -> None:
    _nothing_is_lost("reload", lambda: systemctl("reload").returncode == 0)


def _nothing_is_lost(name: str, do: Callable[[], bool], rate: float = RATE) -> None:
    """Do it amid a load, of which every exec and every exit has its one entry then."""
    entries = Entries()
    with Load(f"load-{name}", rate) as load:
        check(f"{name}: it is done", do(), name)
    entries.settle()
    missing = load.missing(entries.all)
    check(f"{name}: nothing is missing", not missing, f"{len(missing)} of {2 * len(load.made)}: {missing}")
    losses = [entry["MESSAGE"] for entry in entries.having(of("loss"))]
    check(f"{name}: no loss is told", not losses, losses)


def upgrade_under_load(install: Callable[[], bool]) -> None:
    _nothing_is_lost("upgrade", install, UPGRADE_RATE)


def killed_under_load() -> None:
    """What the daemon had in hand may be lost; it is counted, one event like the other."""
    configure(ALL_OF_THE_LOAD)
    systemctl("reload")
    entries = Entries()
    before = main_pid()
    with Load("load-killed") as load:
        systemctl("kill", "--kill-whom=main", "-s", "KILL")
        check(
            "killed: it is started again",
            wait_until(lambda: main_pid() not in (0, before)),
            shown("ActiveState"),
        )
        check("killed: it gets ready", wait_until(lambda: shown("SubState") == "running"), shown("SubState"))
    entries.settle()
    missing = load.missing(entries.all, ("fork", "exec", "exit"))
    losses = entries.having(of("loss"))
    lost = sum(int(field(entry, "COUNT")) for entry in losses)
    note(f"killed: {len(missing)} of {3 * len(load.made)} missing: {[one['MESSAGE'] for one in losses]}")
    counts = f"{lost} told, missing are {missing}"
    check(
        "killed: as much as is missing is told to be lost",
        len(missing) <= lost <= len(missing) + OF_OTHERS,
        counts,
    )


def ledger_at_stop() -> None:
    """The account adds up, and nothing was lost."""
    entries = Entries()
    done = systemctl("stop")
    check("it stops", done.returncode == 0 and shown("Result") == "success", done.stdout)
    stop = entries.one(of("stop"))
    terms = {
        name: int(field(stop, name))
        for name in (
            "PRODUCED",
            "RECEIVED",
            "FILTERED",
            "LOST",
            "RECORDER_LOST",
            "ACCOUNTING_LOST",
            *TERMS,
            *CONSIDERED,
        )
    }
    produced = terms["RECEIVED"] + terms["FILTERED"] + terms["LOST"]
    check("PRODUCED adds up at stop", terms["PRODUCED"] == produced, terms)
    check("RECEIVED adds up at stop", terms["RECEIVED"] == sum(terms[name] for name in TERMS), terms)
    check("CONSIDERED adds up at stop", terms["CONSIDERED"] == sum(terms[name] for name in CONSIDERED), terms)
    left = {
        name: terms[name] for name in ("PENDING", "LOST", "RECORDER_LOST", "ACCOUNTING_LOST", "UNWRITTEN")
    }
    check("nothing is pending, nothing was lost", not any(left.values()), left)
