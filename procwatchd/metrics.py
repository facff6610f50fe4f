# SPDX-License-Identifier: MIT
"""The ledger for Prometheus: the text format, for node_exporter's textfile collector or anything like it."""

from __future__ import annotations

# What can go down again; all else only grows.
_GAUGES = frozenset({"PENDING", "PROCESSES", "QUEUED", "UNLOCATED", "BLIND"})


def metrics_text(terms: dict[str, int]) -> str:
    """The terms in the exposition format: `procwatchd_received_total 12`."""
    lines = []
    for term, value in terms.items():
        name = f"procwatchd_{term.lower()}" + ("" if term in _GAUGES else "_total")
        kind = "gauge" if term in _GAUGES else "counter"
        lines.append(f"# TYPE {name} {kind}\n{name} {value}\n")
    return "".join(lines)
