# SPDX-License-Identifier: MIT
"""The ledger of an entry: its three equations."""

from __future__ import annotations

from pathlib import Path

from tests.integration.running import Entry

PREFIX = "PROCWATCH_"
TERMS = (
    *("PRODUCED", "RECEIVED", "FILTERED", "LOST"),
    *("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING"),
    *("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN"),
)


def terms_of(entry: Entry) -> dict[str, int]:
    """The terms in a statistics or stop entry."""
    return {term: int(entry[PREFIX + term]) for term in TERMS}


def check_sums(terms: dict[str, int]) -> None:
    """All three equations hold, and no term is negative."""
    assert min(terms.values()) >= 0, terms
    assert terms["PRODUCED"] == terms["RECEIVED"] + terms["FILTERED"] + terms["LOST"], terms
    sorted_out = sum(terms[term] for term in ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING"))
    assert terms["RECEIVED"] == sorted_out, terms
    considered = sum(terms[term] for term in ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN"))
    assert terms["CONSIDERED"] == considered, terms


def check_end(entry: Entry) -> dict[str, int]:
    """At stop nothing is pending."""
    terms = terms_of(entry)
    check_sums(terms)
    assert terms["PENDING"] == 0, terms
    # By then each CPU has said what its last number was.
    assert entry[PREFIX + "UNLOCATED"] == "0", entry
    return terms


def read_metrics(directory: Path) -> dict[str, int]:
    """The values in metrics.prom, by the names of the terms."""
    lines = (directory / "run" / "metrics.prom").read_text().splitlines()
    values = dict(line.split(" ") for line in lines if not line.startswith("#"))
    return {
        name.removeprefix("procwatchd_").removesuffix("_total").upper(): int(value)
        for name, value in values.items()
    }
