# SPDX-License-Identifier: MIT
"""Sigma rules from the files that the configuration names.

Whole collections are meant to be given: what is for another system, another log or below what was asked for is passed
over, and what cannot be loaded is told and stops nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from procwatchd.rules.detection import LEVELS
from procwatchd.rules.sigma import Exclusion, Sigma, SigmaError, SigmaRule, is_for_processes, parse_rule
from procwatchd.trusted import others_may_change, others_may_redirect, read_file
from procwatchd.yamltree import Mark, Problem, mark_of, parse_yaml, typed

# Limits.
FILES_LIMIT = 20_000
RULES_LIMIT = 5_000
DEPTH_LIMIT = 16  # of directories in one another

_ENDINGS = (".yml", ".yaml")


def load_sigma(
    paths: Sequence[str], min_level: str, statuses: Collection[str], exclusions: Sequence[Exclusion]
) -> Sigma:
    """The rules in these files and directories that are of such a status, or of none, and severe enough."""
    loader = _Loader(min_level, statuses)
    for number, file in enumerate(_files(paths, loader.problems)):
        if number == FILES_LIMIT:
            loader.problem(
                Mark(file), "file", f"this and what follows is left out: more than {FILES_LIMIT} files"
            )
            break
        loader.load(file)
    unknown = sorted({e.rule_id for e in exclusions} - loader.ids)
    problems = [str(problem) for problem in loader.problems]
    problems += [f"sigma.exclude: no rule has the id {rule_id!r}" for rule_id in unknown]
    return Sigma(loader.rules, exclusions, problems, loader.others)


class _Loader:
    """Takes file after file; `ids` are those of all rules there are, loaded or not."""

    def __init__(self, min_level: str, statuses: Collection[str]) -> None:
        self.rules: list[SigmaRule] = []
        self.problems: list[Problem] = []
        self.others = 0
        self.ids: set[str] = set()
        self._loaded: dict[str, str] = {}  # files by the ids of what was loaded from them
        self._min_rank = list(LEVELS).index(min_level)
        self._statuses = statuses

    def problem(self, mark: Mark, where: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(mark, where, what))

    def load(self, path: str) -> None:
        """Take a file's rule, if it is one for us; note what is wrong with it."""
        source = read_file(path, self.problems)
        if source is None:
            return
        # Most of a collection is for others; reading YAML takes a hundred times as long as this.
        if b"linux" not in source.data or b"process_creation" not in source.data:
            self.others += 1
            return
        tree, problems = parse_yaml(source.data, path)
        if problems:
            self.problems.append(problems[0])
            return
        raw = typed(tree)
        if not is_for_processes(raw):
            self.others += 1
            return
        try:
            self._take(parse_rule(raw, path))
        except ValueError as error:  # of whatever kind: one file is not to cost the others
            where = error.path if isinstance(error, SigmaError) else ()
            self.problem(mark_of(tree, where), ".".join(map(str, where)) or "rule", str(error))

    def _take(self, rule: SigmaRule) -> None:
        rule_id = rule.detection.rule_id
        self.ids.add(rule_id)
        if rule.detection.rank < self._min_rank or (rule.status and rule.status not in self._statuses):
            self.others += 1
            return
        if rule_id in self._loaded:
            raise SigmaError(("id",), f"{rule_id!r} is the id of the rule in {self._loaded[rule_id]}, too")
        if len(self.rules) == RULES_LIMIT:
            raise SigmaError((), f"is left out: more than {RULES_LIMIT} rules")
        self.rules.append(rule)
        if rule_id:
            self._loaded[rule_id] = rule.file


def _files(paths: Sequence[str], problems: list[Problem]) -> Iterator[str]:
    """The files that are named, and those in directories that are, in order."""
    for path in paths:
        if os.path.isdir(path):
            yield from _files_below(path.rstrip("/") or "/", problems)
        else:
            yield path


def _files_below(top: str, problems: list[Problem]) -> Iterator[str]:
    def failed(error: OSError) -> None:
        problems.append(Problem(Mark(str(error.filename)), "directory", f"cannot be read: {error.strerror}"))

    for place, directories, names in os.walk(top, onerror=failed):
        why = _why_not(place, depth=place.count("/") - top.count("/"))
        if why:
            problems.append(Problem(Mark(place), "directory", why))
            directories.clear()
            continue
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for link in filter(os.path.islink, [os.path.join(place, name) for name in directories]):
            # To follow it might never end.
            problems.append(Problem(Mark(link), "directory", "is a link, left out: name it in sigma.paths"))
        for name in sorted(names):
            if name.endswith(_ENDINGS) and not name.startswith("."):
                yield os.path.join(place, name)


def _why_not(directory: str, *, depth: int) -> str:
    """Why nothing is taken from a directory; "" where all is well."""
    if depth > DEPTH_LIMIT:
        return f"more than {DEPTH_LIMIT} directories in one another"
    try:
        return others_may_change(os.stat(directory)) or others_may_redirect(directory)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
