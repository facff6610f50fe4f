# SPDX-License-Identifier: MIT
"""What procwatchctl shows of the service on a machine as people have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.guest.report import check, note
from tests.e2e.guest.service import Entries, run

HERE = Path("/run/e2e")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
FORGED = """PROCWATCH_EVENT=exec
PROCWATCH_PID=1
PROCWATCH_CMDLINE=e2e-forged
MESSAGE=e2e-forged
"""


def people_look() -> None:
    """Each command, on what a small shell script did."""
    run("sh", "-c", "for i in 1 2 3 4 5 6; do /usr/bin/id -u; done; /bin/false; kill -SEGV $$", "e2e-looked")
    Entries().settle()
    lines = run("procwatchctl", "log", "--since", "-5min", "cmdline|contains=e2e-looked").stdout
    check("log shows who failed, and how", "SIGSEGV" in lines, lines[-2000:])
    forest = run("procwatchctl", "tree", "--since", "-5min", "--no-pager").stdout
    is_folded = "id \N{MULTIPLICATION SIGN} 6" in forest
    check("tree folds what is repeated", "e2e-looked" in forest and is_folded, forest[-3000:])
    # Not the first ten alone: much is started while a machine boots.
    top = _json("top", "--since", "-5min", "-n", "1000")
    starts = {one["executable"]: one["starts"] for one in top["most_started"]}
    check("top counts starts", starts.get("/usr/bin/id", 0) >= 6 and top["failed"] >= 2, starts)
    status = _json("status")
    check("status: it runs, and nothing is wrong", status["runs"] and not status["problems"], status)
    plot = run("procwatchctl", "plot", "--since", "-5min", "--output", str(HERE / "lives.svg"))
    check("plot draws", plot.returncode == 0 and "<svg" in (HERE / "lives.svg").read_text(), plot.stdout)
    for form in ("json", "ecs", "ocsf", "csv", "perfetto"):
        done = run(
            "procwatchctl", "export", "--format", form, "--since", "-5min", "--output", str(HERE / "export")
        )
        text = (HERE / "export").read_text()
        check(f"export writes {form}", done.returncode == 0 and "e2e-looked" in text, done.stdout)


def the_doctor_is_content() -> None:
    found = _json("doctor")
    for finding in found["findings"]:
        if finding["level"] != "OK":
            note(f"{finding['level']} {finding['check']}: {finding['found']}")
    failed = [finding for finding in found["findings"] if finding["level"] == "FAIL"]
    check("doctor finds nothing broken", not failed, failed)
    room = [finding for finding in found["findings"] if finding["check"] == "room"]
    note(f"room: {room}")


def who_forges_is_found() -> None:
    """Entries that anybody sent with the daemon's fields: nobody believes them, and doctor tells of them."""
    (HERE / "forged").write_text(FORGED)
    done = run(*NOBODY, "sh", "-c", f"logger --journald <{HERE}/forged")
    check("anybody may send such an entry", done.returncode == 0, done.stdout)
    run("journalctl", "--sync")
    shown = run("procwatchctl", "log", "--since", "-5min", "--no-pager").stdout
    check("log does not believe it", "e2e-forged" not in shown, shown[-2000:])
    found = [one for one in _json("doctor")["findings"] if one["check"] == "forgeries"]
    check("doctor tells who sent it", found and found[0]["level"] == "FAIL" and "65534" in str(found), found)


def _json(*arguments: str) -> dict[str, Any]:
    done = run("procwatchctl", *arguments, "--json")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    check(f"procwatchctl {arguments[0]} answers", isinstance(found, dict), done.stdout[-1000:])
    return found or {}


STEPS = (people_look, the_doctor_is_content, who_forges_is_found)
