# SPDX-License-Identifier: MIT
"""What the rules make of commands under the unit as it is shipped: secrets, floods, detections, hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.guest.report import check
from tests.e2e.guest.service import DROP_IN, Entries, Entry, configure, field, main_pid, of, run, systemctl

KEY = Path("/var/lib/procwatchd/redaction.key")
SECRET = "Tr0ub4dor-e2e"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
FLOOD = 400

LIMITED = """
log: {limit: 100/10s}
rules: [{name: e2e-alarm, match: {event: exec, cmdline|contains: e2e-alarm}, priority: alert}]
"""
DETECTING = """
log: {limit: off}
capture: {hash: sha256}
sigma: {paths: [/etc/procwatchd.d/e2e-sigma]}
"""
SIGMA_ID = "5f3a0a4e-6a0e-4c55-9d0b-0a8d3b1f4c11"
SIGMA = f"""
title: Sign Of The Test
id: {SIGMA_ID}
status: stable
level: high
logsource: {{category: process_creation, product: linux}}
detection:
    selection: {{Image|endswith: /id, CommandLine|contains: e2e-detected}}
    condition: selection
"""


def secrets_are_hidden() -> None:
    """With the key that the unit's directory keeps, so that a mark means the same after a restart."""
    before = _hidden("/bin/echo", "e2e-hidden", f"--password={SECRET}")
    check("a secret is a mark", "<redacted:" in before, before)
    systemctl("restart")
    after = _hidden("/bin/echo", "e2e-hidden", f"--password={SECRET}")
    check("after a restart the same secret has the same mark", before == after, f"{before}, then {after}")
    text = run("journalctl", "-q", "-b", "-o", "json", "-u", "procwatchd.service").stdout
    check("the journal has it nowhere", "e2e-hidden" in text and SECRET not in text, "it has")
    mode, owner = KEY.stat().st_mode & 0o777, KEY.stat().st_uid
    check(
        "the key is for the daemon alone", (mode, owner) == (0o600, Path(f"/proc/{main_pid()}").stat().st_uid)
    )


def _hidden(*command: str) -> str:
    entries = Entries()
    run(*command)
    return str(field(entries.one(lambda entry: "e2e-hidden" in str(field(entry, "CMDLINE"))), "CMDLINE"))


def a_flood_is_summed_up() -> None:
    with _configured(LIMITED) as entries:
        run(
            *NOBODY, "sh", "-c", f"for i in $(seq {FLOOD}); do /bin/true e2e-flood; done; /bin/true e2e-alarm"
        )
        run("/bin/true", "e2e-neighbour")
        last = entries.settle()
        told = [entry for entry in entries.having(of("exec")) if _is(entry, "e2e-flood")]
        check("a flood is limited", 0 < len(told) < FLOOD, len(told))
        for name in ("e2e-alarm", "e2e-neighbour"):
            found = [entry["MESSAGE"] for entry in entries.having(of("exec")) if _is(entry, name)]
            check(f"it hides no {name}", any("/bin/true" in text for text in found), found)
        # Until its summary is told it is pending.
        terms = [int(field(last, term)) for term in ("LIMITED", "PENDING")]
        check("the ledger has what is silenced", sum(terms) > 0, terms)
    limited = int(field(entries.settle(), "LIMITED"))
    silenced = sum(int(field(entry, "COUNT")) for entry in entries.having(of("summary")))
    check("summaries have all of it", silenced == limited, f"{silenced} of {limited}")


def sigma_detects_and_executables_are_hashed() -> None:
    rules = DROP_IN.parent / "e2e-sigma"
    rules.mkdir()
    (rules / "rule.yml").write_text(SIGMA)
    with _configured(DETECTING) as entries:
        run("/usr/bin/id", "e2e-warm")
        entries.settle()
        run("/usr/bin/id", "e2e-detected")
        told = entries.one(lambda entry: of("exec")(entry) and _is(entry, "e2e-detected"))
        found = (
            field(told, "SIGMA_ID"),
            field(told, "SIGMA_TITLE"),
            field(told, "SIGMA_LEVEL"),
            told["PRIORITY"],
        )
        check("Sigma detects", found == (SIGMA_ID, "Sign Of The Test", "high", "4"), found)
        digest = hashlib.sha256(Path("/usr/bin/id").read_bytes()).hexdigest()
        check("the executable's hash is its hash", field(told, "SHA256") == digest, field(told, "SHA256"))
    (rules / "rule.yml").unlink()
    rules.rmdir()


def _is(entry: Entry, word: str) -> bool:
    return word in str(field(entry, "CMDLINE"))


@contextmanager
def _configured(text: str) -> Iterator[Entries]:
    """With this over the shipped configuration; then with what was there."""
    before = DROP_IN.read_text()
    configure(text)
    check("it can be reloaded", systemctl("reload").returncode == 0, systemctl("status").stdout)
    try:
        yield Entries()
    finally:
        configure(before)
        systemctl("reload")


STEPS = (secrets_are_hidden, a_flood_is_summed_up, sigma_detects_and_executables_are_hashed)
