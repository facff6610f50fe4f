# SPDX-License-Identifier: MIT
"""What looking for detections costs, and hiding secrets, and limiting: the daemon's CPU time by logged exec.

The Sigma rules are of the kinds that collections for Linux have, with the programs and words these speak of, and of
the load they match nothing. Its command line is of a common length, and has nothing to hide.
"""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from procwatchd.config import load_config
from tests.bench.cost import Round, Start, measure_round
from tests.bench.load import MARK, BenchError, Load
from tests.bench.measured import ROOT, procwatchd, unlimited
from tests.bench.table import Row, Table

RULES = 144
ROUNDS = 3
TARGET_RATIO = 1.3
SEED = 6

PROGRAM = (
    "/bin/true",
    MARK,
    "--config=/etc/worker/conf.d/outbound.yaml",
    "--queue",
    "mail-outbound",
    "--workers=4",
    "-v",
    "/var/lib/worker/spool/2026/11/21/batch",
)
PLAIN, SIGMA, UNREDACTED, UNLIMITED = "as shipped", f"{RULES} Sigma rules", "redaction off", "limit off"

_WORDS: dict[str, list[str]] = yaml.safe_load(
    (ROOT / "tests/data/sigma-words.yaml").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class Detecting:
    """All rounds, by what is configured."""

    processes: int
    rounds: dict[str, list[Round]]

    def usec(self, name: str) -> float:
        """The CPU time of the round in the middle."""
        return median(one.usec_per_process for one in self.rounds[name])

    def ratio(self, name: str) -> float:
        """What it takes by what the shipped configuration does."""
        return self.usec(name) / self.usec(PLAIN)


def measure(load: Load, directory: Path, processes: int) -> Detecting:
    """Measure all configurations, alternately; the rules are written to this directory."""
    write_rules(directory)
    shipped = _changed(unlimited(), "  events: [", "  events: [exec] #")
    configurations = {
        PLAIN: shipped,
        SIGMA: _changed(shipped, "sigma:\n", f"sigma:\n  paths: [{directory}]\n"),
        UNREDACTED: _changed(shipped, "redact:\n", "redact:\n  builtin: off\n"),
        UNLIMITED: _changed(shipped, "  limit: 1000000/s", "  limit: off"),
    }
    _check_rules(directory.parent / "sigma.yaml", configurations[SIGMA])
    costs = Detecting(processes, {name: [] for name in configurations})
    for n in range(ROUNDS):
        for name in list(configurations)[:: -1 if n % 2 else 1]:
            start = _start(configurations[name])
            one = measure_round(start, load, processes, program=PROGRAM, events=("exec",))
            costs.rounds[name].append(one)
    return costs


def _start(configuration: str) -> Start:
    return lambda journald: procwatchd(configuration, journald)


def _changed(text: str, old: str, new: str) -> str:
    """The configuration with a change, of what it must have once."""
    if text.count(f"\n{old}") != 1:
        raise BenchError(f"the shipped configuration has not just one {old.strip()!r}")
    return text.replace(f"\n{old}", f"\n{new}")


def _check_rules(path: Path, configuration: str) -> None:
    path.write_text(configuration)
    sigma = load_config(str(path)).sigma
    if len(sigma.rules) != RULES:
        raise BenchError(f"of {RULES} Sigma rules {len(sigma.rules)} are loaded: {sigma.problems[:1]}")


def write_rules(directory: Path) -> None:
    """A file for each rule, the same each time."""
    directory.mkdir()
    chance = random.Random(SEED)
    for n in range(RULES):
        rule = {
            "title": f"Rule {n}",
            "id": str(uuid.UUID(int=n + 1)),
            "status": "test",
            "level": "high",
            "logsource": {"product": "linux", "category": "process_creation"},
            "detection": _KINDS[n % len(_KINDS)](chance),
        }
        (directory / f"{n}.yml").write_text(json.dumps(rule, indent=1))


def _images(chance: random.Random, kind: str, most: int) -> list[str]:
    return [f"/{name}" for name in chance.sample(_WORDS[kind], chance.randint(1, most))]


def _words(chance: random.Random) -> list[str]:
    return chance.sample(_WORDS["words"], chance.randint(1, 12))


def _program_and_words(chance: random.Random) -> dict[str, Any]:
    return {
        "selection_img": {"Image|endswith": _images(chance, "programs", 6)},
        "selection_cli": {"CommandLine|contains": _words(chance)},
        "condition": "all of selection_*",
    }


def _program(chance: random.Random) -> dict[str, Any]:
    return {
        "selection": {"Image|endswith": _images(chance, "programs", 6)},
        "condition": "selection",
    }


def _words_but(chance: random.Random) -> dict[str, Any]:
    return {
        "selection": {"CommandLine|contains": _words(chance)},
        "filter": {"ParentImage|endswith": _images(chance, "servers", 2)},
        "condition": "selection and not filter",
    }


def _all_words(chance: random.Random) -> dict[str, Any]:
    return {
        "selection": {"CommandLine|contains|all": chance.sample(_WORDS["words"], 3)},
        "condition": "selection",
    }


def _shell_below(chance: random.Random) -> dict[str, Any]:
    return {
        "selection": {
            "ParentImage|endswith": _images(chance, "servers", 4),
            "Image|endswith": ["/sh", "/bash", "/dash", "/zsh"],
        },
        "condition": "selection",
    }


def _piped(chance: random.Random) -> dict[str, Any]:
    return {
        "words": [{"CommandLine|contains": _words(chance)}, {"CommandLine|endswith": [" sh", "|bash"]}],
        "shell": {"CommandLine|startswith": ["sh -c ", "bash -c "]},
        "condition": "all of them",
    }


def _expression(chance: random.Random) -> dict[str, Any]:
    letters = "".join(chance.sample("FTdXoO", 3))
    return {
        "selection": {
            "Image|endswith": "/curl",
            "CommandLine|re": rf"\s-[{letters}]\s.*https?://",
        },
        "condition": "selection",
    }


# As often as in collections: most ask for a program and for words.
_KINDS = [
    *[_program_and_words] * 10,
    *[_program, _words_but, _all_words, _shell_below] * 2,
    _piped,
    _expression,
]


def table(costs: Detecting) -> Table:
    """CPU time by logged exec, and what it is of what the shipped configuration takes."""
    names = list(costs.rounds)
    rows = [
        Row("CPU µs an exec", tuple(f"{costs.usec(name):.1f}" for name in names), details=_details(costs)),
        Row(
            "  by what is shipped",
            ("", *(f"{costs.ratio(name):.2f}" for name in names[1:])),
            f"Sigma ≤ {TARGET_RATIO}",
            costs.ratio(SIGMA) <= TARGET_RATIO,
        ),
        Row(
            "  not stored, worst round",
            tuple(f"{max(one.missing for one in rounds):,}" for rounds in costs.rounds.values()),
        ),
    ]
    return Table(f"{costs.processes:,} execs to journald", tuple(names), rows)


def _details(costs: Detecting) -> tuple[str, ...]:
    return tuple(
        f"{name}, each round: {', '.join(f'{one.usec_per_process:.1f}' for one in rounds)}"
        for name, rounds in costs.rounds.items()
    )
