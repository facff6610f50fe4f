# SPDX-License-Identifier: MIT
"""The ledger for Prometheus: the text format, for node_exporter's textfile collector or anything like it."""

from __future__ import annotations

from collections.abc import Mapping

from procwatchd import __version__

# What can go down again; all else only grows.
_GAUGES = frozenset({"PENDING", "PROCESSES", "QUEUED", "UNLOCATED", "BLIND", "BEHIND_USEC"})


def metrics_text(terms: dict[str, int], decided: Mapping[tuple[str | None, str], int]) -> str:
    """The terms in the exposition format, `procwatchd_received_total 12`, and how many events each rule decided.

    `decided` is by a rule's name, None where none decided, and the action; such names need no escapes.
    """
    lines = [f'# TYPE procwatchd_info gauge\nprocwatchd_info{{version="{__version__}"}} 1\n']
    for term, value in terms.items():
        name = f"procwatchd_{term.lower()}" + ("" if term in _GAUGES else "_total")
        kind = "gauge" if term in _GAUGES else "counter"
        lines.append(f"# TYPE {name} {kind}\n{name} {value}\n")
    lines.append("# TYPE procwatchd_rule_events_total counter\n" if decided else "")
    for (rule, action), value in decided.items():
        lines.append(f'procwatchd_rule_events_total{{rule="{rule or ""}",action="{action}"}} {value}\n')
    return "".join(lines)
