# SPDX-License-Identifier: MIT
"""What rules cost: records of many programs, decided by 10, 100 and 1000 rules.

The rules are of the kinds that people write and detections are made of, in the same mixture however many there are; few
records match one. The records are made before, so that what is measured is `RuleSet.decide` alone.
`python -m tests.bench.rules` shows it.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from procwatchd.process.cgroup import Place
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules.match import compile_match
from procwatchd.rules.ruleset import Rule, RuleSet

SIZES = (10, 100, 1000)
RECORDS = 5_000
ROUNDS = 9
PROGRAMS = 400
SEED = 4

_WORDS = [
    "archive",
    "build",
    "cache",
    "check",
    "config",
    "copy",
    "daemon",
    "deploy",
    "export",
    "fetch",
    "list",
]
_SHELLS = ["/sh", "/bash", "/dash", "/zsh", "/ksh", "/busybox"]


@dataclass(frozen=True, slots=True)
class SetCost:
    """What a set of so many rules costs: µs a record, each round; and how many records it decided."""

    rules: int
    rounds_usec: list[float]
    decided: int
    load_ms: float

    @property
    def usec(self) -> float:
        """The round in the middle."""
        return median(self.rounds_usec)


@dataclass(frozen=True, slots=True)
class RuleCost:
    """The sets by size."""

    sets: list[SetCost]

    @property
    def ratio(self) -> float:
        """How much more the largest costs than the smallest."""
        return self.sets[-1].usec / self.sets[0].usec


def measure(records: int = RECORDS) -> RuleCost:
    """Decide so many records by sets of each size, in rounds that take turns."""
    stream = _stream(records)
    sets, load_ms = [], []
    for size in SIZES:
        before_ns = time.process_time_ns()
        sets.append(RuleSet([_rule(n) for n in range(size)]))
        load_ms.append((time.process_time_ns() - before_ns) / 1e6)
    rounds = [[_round(each, stream) for each in sets] for _ in range(ROUNDS)]
    return RuleCost(
        [
            SetCost(
                size,
                [usec[at] for usec in rounds],
                sum(sets[at].decide(record).rule is not None for record in stream),
                load_ms[at],
            )
            for at, size in enumerate(SIZES)
        ]
    )


def _round(rules: RuleSet, stream: list[Record]) -> float:
    decide = rules.decide
    gc.collect()
    gc.freeze()
    before_ns = time.process_time_ns()
    for record in stream:
        decide(record)
    used_ns = time.process_time_ns() - before_ns
    gc.unfreeze()
    return used_ns / 1000 / len(stream)


def _rule(n: int) -> Rule:
    return Rule(f"r{n}", compile_match(_match(n)), "drop" if n % 3 else "log", tags=("bench",))


def _match(n: int) -> dict[str, Any]:
    """The match of the nth rule: ten kinds in turn, in a hundred one that only compares, and one of a common text."""
    word = _WORDS[n // 10 % len(_WORDS)]
    if n % 100 == 99:
        return {"event": "exec", "uid|gt": f"{60_000 + n}", "tty|exists": "yes"}
    if n % 100 == 49:
        return {"event": "exec", "exe|endswith": "/ksh", "cmdline|contains": f"/var/lib/{word}/"}
    kinds: list[dict[str, Any]] = [
        {"event": "exec", "exe|endswith": [f"/{word}-{n}", f"/{word}{n}"]},
        {"event": "exec", "exe": f"/opt/vendor-{n}/bin/agent-{n}", "not": {"parent-comm": word}},
        {"event": "exec", "cmdline|contains": f" --{word}-secret-{n}"},
        {"event": "exec", "exe|endswith": _SHELLS, "parent.exe": f"/usr/sbin/{word}d-{n}"},
        {"event": ["exec", "exit"], "unit": f"{word}-{n}.service", "uid|gte": "1000"},
        {"event": "exit", "exit-code": [f"{100 + n % 150}"], "comm": [f"{word}-{n}"[:15], f"{word}{n}"]},
        {"event": "exec", "cmdline|re": rf"\b({word}|fetch)-{n}\b.*\|\s*(ba|da)?sh\b"},
        {"event": "exec", "uid": f"{2000 + n}", "cmdline|contains|all": ["-c", "import"]},
        {
            "any": [{"exe": f"/srv/{word}/{n}"}, {"exe|endswith": f"/{n}.bin", "source": "proc"}],
            "event": "exec",
        },
        {"event": "exec", "cmdline|contains|all": [word, f"/var/lib/{word}/{n}/"], "not": {"user": "root"}},
    ]
    return kinds[n % 10]


def _stream(count: int) -> list[Record]:
    """Records of processes that start and end, most of them of programs that no rule speaks of."""
    chance = random.Random(SEED)
    users = Users(lambda _: None, passwd_path="/nonexistent")
    programs = [f"/usr/bin/{chance.choice(_WORDS)}-{n * 5}" for n in range(PROGRAMS)]
    programs += ["/usr/bin/bash", "/usr/bin/dash"] * (PROGRAMS // 10)
    return [_record(chance, programs, users) for _ in range(count)]


def _record(chance: random.Random, programs: list[str], users: Users) -> Record:
    parent = _process(chance, chance.choice(programs), None, users)
    of = _process(chance, chance.choice(programs), parent, users)
    if chance.random() < 2 / 3:
        return Record("exec", of, 0, "proc", "same")
    return Record("exit", of, 0, "table", "same", wait_status=chance.choice([0, 0, 0, 9, 1 << 8, 2 << 8]))


def _process(chance: random.Random, exe: str, parent: Process | None, users: Users) -> Process:
    words = [exe]
    for _ in range(chance.randrange(12)):
        word, number = chance.choice(_WORDS), chance.randrange(20_000)
        words.append(chance.choice([f"--{word}={number}", f"/var/lib/{word}/{number}", f"-{word[0]}", word]))
    argv = b"".join(word.encode() + b"\0" for word in words)
    uid = chance.choice([0, 0, 33, 1000 + chance.randrange(50)])
    unit = f"{chance.choice(_WORDS)}-{chance.randrange(200)}.service".encode()
    place = Place(b"/system.slice/" + unit, unit, None, b"system.slice", None, None)
    return Process(
        chance.randrange(1 << 22),
        1,
        parent,
        1,
        exe.rpartition("/")[2].encode()[:15],
        Image(exe.encode(), argv, len(argv), b"", "same"),
        Context(tty=None, place=place, host_mounts=True),
        Creds(uid, uid, uid, uid, users),
    )


def main() -> None:
    """Measure, and show it."""
    cost = measure()
    for each in cost.sets:
        share = 100 * each.decided / RECORDS
        print(
            f"{each.rules:5} rules: {each.usec:6.2f} µs a record, {share:4.1f} % decided by a rule,"
            f" loaded in {each.load_ms:.0f} ms"
        )
    print(f"ratio {SIZES[-1]} : {SIZES[0]}: {cost.ratio:.2f}")


if __name__ == "__main__":
    main()
