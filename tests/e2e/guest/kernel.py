# SPDX-License-Identifier: MIT
"""What depends on the kernel: whether the daemon has all it uses there, and tells what it tells elsewhere."""

from __future__ import annotations

import os

from tests.e2e.guest import fields, upkeep
from tests.e2e.guest.report import check, note
from tests.e2e.guest.service import Entries, install, of, systemctl

PACKAGE = "./procwatchd.deb"


def package_is_installed() -> None:
    note(f"{os.uname().release} {os.uname().version}")
    done = install(PACKAGE)
    check("the package can be installed", done.returncode == 0, done.stdout)


def it_starts_with_all_it_uses() -> None:
    entries = Entries()
    done = systemctl("start")
    check("it starts", done.returncode == 0, done.stdout)
    started = entries.one(of("start"))["MESSAGE"]
    note(started)
    for without in ("by /proc alone", "only as far as the connector tells", "bytes only"):
        check(f"the start says nothing of: {without}", without not in started, started)


BOOTS = (
    (
        package_is_installed,
        it_starts_with_all_it_uses,
        *fields.STEPS,
        upkeep.as_shipped_but_unlimited,
        upkeep.restart_under_load,
        upkeep.ledger_at_stop,
    ),
)
