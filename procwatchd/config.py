# SPDX-License-Identifier: MIT
"""The configuration: which files, what may stand in them, and what it comes to.

Each file is checked on its own, so that a problem is reported where it was written even if another file
would replace it. Only if all are good they are merged and built. The models check once; what leaves this
module is plain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from procwatchd.errors import ConfigError
from procwatchd.process.fields import ENTRY_ONLY, EVENTS, FIELDS
from procwatchd.rules.detection import LEVELS
from procwatchd.rules.limit import SUMMARY_NS, By, Rate, Suppression
from procwatchd.rules.match import Match, MatchError, Path, compile_match
from procwatchd.rules.names import (
    SIGMA,
    TAGS,
    Scope,
    UnknownNameError,
    name_of,
    resolve,
    suggestion,
    unknown_field,
)
from procwatchd.rules.redact import PATTERNS_LIMIT
from procwatchd.rules.regex import RegexError, compile_regex
from procwatchd.rules.ruleset import Action, Rule, RuleSet
from procwatchd.rules.sigma import STATUSES, Exclusion, Sigma
from procwatchd.rules.template import Template, TemplateError, name_in_entry, parse_template
from procwatchd.sigmafiles import load_sigma
from procwatchd.trusted import Source, others_may_change, others_may_redirect, read_file
from procwatchd.yamltree import Mapping, Mark, Problem, mark_of, merge, parse_yaml, plain

MAIN_FILE = "/etc/procwatchd.yaml"
DROP_IN_DIRECTORY = "/etc/procwatchd.d"

# Limits.
DROP_IN_LIMIT = 1000
LIST_LIMIT = 1000  # items of a list that is not the rules
RECEIVE_BUFFER_BYTES = (64 << 10, 1 << 30)
MAX_ARGV_BYTES = (256, 128 << 10)
EVERY_SECONDS = (1, 3600)
RATE_EVENTS = (1, 1_000_000)
RATE_SECONDS = (1, 86_400)
BY_LIMIT = 8  # fields
INHERITED_LIMIT = 64  # tags that go from process to process

PRIORITIES = {
    word: number
    for number, words in enumerate(
        (
            ("emerg",),
            ("alert",),
            ("crit",),
            ("err", "error"),
            ("warning", "warn"),
            ("notice",),
            ("info",),
            ("debug",),
        )
    )
    for word in (str(number), *words)
}
# Fields of entries that are no event's, which a rule's own must not be taken for.
_LEDGER = (
    "PRODUCED RECEIVED FILTERED LOST MALFORMED FOREIGN UNNEEDED CONSIDERED PENDING LOGGED DROPPED COUNTED LIMITED "
    "UNWRITTEN ACCOUNTING_LOST RECORDER_LOST"
)
_OTHER_ENTRIES = frozenset(
    f"{_LEDGER} COUNT SINCE_USEC UNTIL_USEC LOST_WHERE CPUS GROUP SAMPLE VERSION PROCESSES RECEIVE_BUFFER ARGV_CUT "
    "ANCESTORS_CUT HASHES_SKIPPED NAMES_REFUSED READINGS_UNUSED RECORDS_UNUSED FAILURES FORKS FORKS_KERNEL "
    "FORKS_MISSED UNLOCATED BLIND BLINDNESSES RESYNCS QUEUED ACCOUNTING_LOST APPEARED VANISHED EXECED "
    "RECORDINGS_UNUSED GROUPS_SHARED SAMPLES_SKIPPED SIGNALS_FORGOTTEN KEPT DETECTIONS_CUT "
    "UNRECORDED BEHIND_USEC".split()
)
_TAKEN = frozenset(FIELDS) | ENTRY_ONLY | SIGMA | _OTHER_ENTRIES | {TAGS}

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_TRUTH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)")
_SECONDS = {"s": 1, "min": 60, "h": 3600}
_SPAN = re.compile(r"([0-9]{1,9})(s|min|h)")
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,9})?(s|min|h)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")  # journald's limit is 64, with PROCWATCH_ENV_
_PATTERN_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAG = re.compile(r"[a-z0-9_.:-]{1,64}")
_OWN_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,53}")  # journald's limit is 64, with PROCWATCH_
_OWN_TEXT_LIMIT = 1024


_Unmatched = Literal["log", "drop"]


@dataclass(frozen=True, slots=True)
class Capture:
    """What is listened to and read.

    `arguments` is auto, recorder or proc, `accounting` auto, on or off, `hash` off or sha256.
    """

    events: frozenset[str]
    threads: bool
    receive_buffer_bytes: int
    arguments: str
    accounting: str
    hash: str
    environment: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """What entries look like. `fields` are names as in FIELDS (RULE and TAGS besides), or one of the two words.

    `limit` is for all entries of events together, None for none.
    """

    unmatched: _Unmatched
    priority: int
    fields: Literal["standard", "all"] | frozenset[str]
    max_argv_bytes: int
    limit: Rate | None


@dataclass(frozen=True, slots=True)
class Redact:
    """What is hidden in command lines. `patterns` are a kind and a regular expression each."""

    is_builtin: bool
    patterns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. `files` are those it was read from, in order."""

    capture: Capture
    log: Log
    redact: Redact
    rules: RuleSet
    sigma: Sigma
    files: tuple[str, ...]


class _ProblemsError(ValueError):
    """Several problems below one key, each with the path from there."""

    def __init__(self, problems: list[tuple[Path, str]]) -> None:
        super().__init__("; ".join(what for _, what in problems))
        self.problems = problems


# What a text may be. Each takes what the tree has, and raises ValueError with the reason.


def _text(value: Any) -> str:
    if value is None:
        raise ValueError("has no value")
    if not isinstance(value, str):
        raise ValueError(f"must be a single value, not a {'list' if isinstance(value, list) else 'mapping'}")
    return value


def _word(*known: str) -> BeforeValidator:
    def check(value: Any) -> str:
        text = _text(value)
        if text not in known:
            raise ValueError(f"{text[:64]!r} is none of: {', '.join(known)}{suggestion(text, list(known))}")
        return text

    return BeforeValidator(check)


def _like(pattern: re.Pattern[str], what: str) -> BeforeValidator:
    def check(value: Any) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"{text[:64]!r} is not {what}: {pattern.pattern}")
        return text

    return BeforeValidator(check)


def _switch(value: Any) -> bool:
    text = _text(value)
    if text.lower() not in _TRUTH:
        raise ValueError(f"{text[:64]!r} is neither on nor off")
    return _TRUTH[text.lower()]


def _size(least: int, most: int) -> BeforeValidator:
    def check(value: Any) -> int:
        text = _text(value)
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:64]!r} is no size: write bytes, or a number with K, M or G")
        size = int(found[1]) << _UNITS[found[2]]
        if not least <= size <= most:
            raise ValueError(f"{text!r} is not between {least} and {most} bytes")
        return size

    return BeforeValidator(check)


def _priority(value: Any) -> int:
    text = _text(value)
    number = PRIORITIES.get(text)
    if number is None:
        raise ValueError(
            f"{text[:64]!r} is no priority: 0 to 7, or {', '.join(k for k in PRIORITIES if k.isalpha())}"
        )
    return number


def _list(value: Any) -> Any:
    """A single text is a list of one."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("has no value; write [] for an empty list" if value is None else "must be a list")
    if len(value) > LIST_LIMIT:
        raise ValueError(f"has more than {LIST_LIMIT} items")
    return value


def _events(value: Any) -> Any:
    items = _list(value)
    if not items:
        raise ValueError("is empty: name at least one event, or all")
    return list(EVENTS) if items == ["all"] else items


def _entry_field(value: Any) -> str:
    key = _text(value)
    name = name_of(key)
    if name not in FIELDS and name not in ENTRY_ONLY | SIGMA and name != TAGS:
        raise unknown_field(key)
    return name


def _entry_fields(value: Any) -> Any:
    items = _list(value)
    if items in (["standard"], ["all"]):
        return items
    names: list[str] = []
    problems: list[tuple[Path, str]] = []
    for at, item in enumerate(items):
        try:
            if item in ("standard", "all"):
                raise ValueError(f"{item!r} stands alone, not in a list with others")
            names.append(_entry_field(item))
        except ValueError as error:
            problems.append(((at,), str(error)))
    if problems:
        raise _ProblemsError(problems)
    return names


def _silencing_match(value: Any) -> Match:
    try:
        return compile_match(value, silences=True)
    except MatchError as error:
        raise _ProblemsError(error.problems) from None


def _path(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text[:64]!r} is no path from the root")
    return text


def _regex(value: Any) -> str:
    text = _text(value)
    try:
        is_found = compile_regex(text)
    except RegexError as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if is_found(""):
        raise ValueError("is found in every argument")
    return text


def _patterns(value: Any) -> Any:
    items = _list(value)
    if len(items) > PATTERNS_LIMIT:
        raise ValueError(f"has more than {PATTERNS_LIMIT} items")
    return items


def _message(value: Any) -> Template:
    try:
        return parse_template(_text(value))
    except TemplateError as error:
        raise _ProblemsError([((), what) for what in error.problems]) from None


def _own_fields(value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        raise ValueError("must be a mapping of names to texts")
    problems: list[tuple[Path, str]] = []
    for name, text in value.items():
        if not _OWN_FIELD.fullmatch(name):
            problems.append(((name,), f"{name[:64]!r} is no name for a field: {_OWN_FIELD.pattern}"))
        elif name in _TAKEN or name.startswith(("ENV_", "SIGMA_")):
            problems.append(((name,), f"{name!r} is a field of procwatchd's own"))
        if not isinstance(text, str) or len(text) > _OWN_TEXT_LIMIT:
            problems.append(((name,), f"must be a text of at most {_OWN_TEXT_LIMIT} characters"))
    if problems:
        raise _ProblemsError(problems)
    return value


def _every(value: Any) -> int:
    text = _text(value)
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:64]!r} is no time: write a number with s, min or h, as in 60s")
    return _between(EVERY_SECONDS, int(found[1]) * _SECONDS[found[2]], "seconds") * 1_000_000_000


def _rate(value: Any) -> Rate:
    text = _text(value)
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:64]!r} is no rate: write N/s, N/min, N/h, or a time as in 20000/30s")
    events = _between(RATE_EVENTS, int(found[1]), "events")
    seconds = _between(RATE_SECONDS, int(found[2] or 1) * _SECONDS[found[3]], "seconds")
    return Rate(events, seconds * 1_000_000_000)


def _rate_or_off(value: Any) -> Rate | None:
    return None if value == "off" else _rate(value)


def _between(bounds: tuple[int, int], number: int, unit: str) -> int:
    least, most = bounds
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most} {unit}")
    return number


def _by(value: Any) -> tuple[By, ...]:
    items = _list(value)
    problems: list[tuple[Path, str]] = []
    found: list[By] = []
    for at, item in enumerate(items):
        try:
            found.append(_field_to_group_by(item))
            if item in items[:at]:
                raise ValueError(f"{item[:64]!r} is here twice")
        except ValueError as error:
            problems.append(((at,), str(error)))
    if len(items) > BY_LIMIT:
        problems.append(((), f"has more than {BY_LIMIT} fields"))
    if problems:
        raise _ProblemsError(problems)
    return tuple(found)


def _field_to_group_by(value: Any) -> By:
    key = _text(value)
    target = resolve(key)
    if target.scope is Scope.ANCESTOR:
        raise UnknownNameError(f"{key[:64]!r}: there may be many ancestors; use 'ancestors' or 'parent.'")
    return By(key, name_in_entry(target), target.get)


_Switch = Annotated[bool, BeforeValidator(_switch)]
_Priority = Annotated[int, BeforeValidator(_priority)]
_Event = Annotated[str, _word(*EVENTS)]
_Tag = Annotated[str, _like(_TAG, "a tag")]
_Variable = Annotated[str, _like(_VARIABLE, "the name of a variable")]
_Path = Annotated[str, BeforeValidator(_path)]
_Status = Annotated[str, _word(*STATUSES)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


# Every default is here and nowhere else.


class _Capture(_Model):
    events: Annotated[list[_Event], BeforeValidator(_events)] = [
        "exec", "exit", "uid", "gid", "ptrace", "coredump",
    ]  # fmt: skip
    threads: _Switch = False
    receive_buffer: Annotated[int, _size(*RECEIVE_BUFFER_BYTES)] = Field(
        default=64 << 20, alias="receive-buffer"
    )
    arguments: Annotated[str, _word("auto", "recorder", "proc")] = "auto"
    accounting: Annotated[str, _word("auto", "on", "off")] = "auto"
    hash: Annotated[str, _word("off", "sha256")] = "off"
    environment: Annotated[list[_Variable], BeforeValidator(_list)] = []


class _Log(_Model):
    unmatched: Annotated[_Unmatched, _word("log", "drop")] = "log"
    priority: _Priority = 6
    fields: Annotated[list[str], BeforeValidator(_entry_fields)] = ["standard"]
    max_argv: Annotated[int, _size(*MAX_ARGV_BYTES)] = Field(default=4 << 10, alias="max-argv")
    limit: Annotated[Rate | None, BeforeValidator(_rate_or_off)] = None


class _Exclusion(_Model):
    id: Annotated[str, BeforeValidator(_text)]
    match: Annotated[Match, BeforeValidator(_silencing_match)]


class _Sigma(_Model):
    paths: Annotated[list[_Path], BeforeValidator(_list)] = []
    min_level: Annotated[str, _word(*LEVELS)] = Field(default="medium", alias="min-level")
    status: Annotated[list[_Status], BeforeValidator(_list)] = ["stable", "test", "experimental"]
    exclude: Annotated[list[_Exclusion], BeforeValidator(_list)] = []


class _Pattern(_Model):
    name: Annotated[str, _like(_PATTERN_NAME, "a name for a pattern")]
    regex: Annotated[str, BeforeValidator(_regex)]


class _Redact(_Model):
    builtin: _Switch = True
    patterns: Annotated[list[_Pattern], BeforeValidator(_patterns)] = []


class _File(_Model):
    capture: _Capture = Field(default_factory=lambda: _Capture.model_validate({}))
    log: _Log = Field(default_factory=lambda: _Log.model_validate({}))
    redact: _Redact = Field(default_factory=lambda: _Redact.model_validate({}))
    sigma: _Sigma = Field(default_factory=lambda: _Sigma.model_validate({}))
    rules: Any = None  # each is checked on its own, so that one bad rule does not hide another's problems


class _Rule(_Model):
    name: Annotated[str, _like(_RULE_NAME, "a name for a rule")]
    match: Any
    action: Annotated[Action, _word(*get_args(Action))] = "log"
    priority: Annotated[int | None, BeforeValidator(_priority)] = None
    tags: Annotated[list[_Tag], BeforeValidator(_list)] = []
    message: Annotated[Template | None, BeforeValidator(_message)] = None
    fields: Annotated[dict[str, str], BeforeValidator(_own_fields)] = {}
    namespaces: Annotated[str, _word("host", "any")] = "host"
    limit: Annotated[Rate | None, BeforeValidator(_rate)] = None
    every: Annotated[int | None, BeforeValidator(_every)] = None
    by: Annotated[tuple[By, ...], BeforeValidator(_by)] = ()
    inherit: _Switch = False


MODELS: tuple[type[BaseModel], ...] = (_File, _Capture, _Log, _Redact, _Pattern, _Sigma, _Exclusion, _Rule)


def load_config(
    main: str | None = None, *, main_file: str = MAIN_FILE, drop_in_directory: str = DROP_IN_DIRECTORY
) -> Config:
    """The configuration in the file `main` alone, or for None that of the default places.

    Of those any may be missing; all must be such that only root and the daemon's user can change them.
    Raises ConfigError with all problems of all files, by file and line.
    """
    problems: list[Problem] = []
    if main is not None:
        sources = [read_file(main, problems, is_trusted=True)]
    else:
        sources = [read_file(main_file, problems, may_be_missing=True)]
        sources += _read_drop_ins(drop_in_directory, problems)
    trees: list[Mapping] = []
    files: list[str] = []
    for source in sources:
        if source is not None:
            tree, found = parse_yaml(source.data, source.path)
            files.append(source.path)
            trees.append(tree)
            problems += found + _check(tree)
    merged = _merged(trees)
    problems += _duplicates(merged)
    if problems:
        raise ConfigError([str(problem) for problem in sorted(set(problems))])
    try:
        return _build(plain(merged), tuple(files))
    except MatchError as error:
        rules = plain(merged).get("rules")
        raise ConfigError(
            [str(Problem(mark_of(merged, path), _where(path, rules), what)) for path, what in error.problems]
        ) from None


def default_config() -> Config:
    """What holds where there are no files."""
    return _build({}, ())


def _merged(trees: list[Mapping]) -> Mapping:
    merged: Any = Mapping({}, {}, Mark(""))
    for tree in trees:
        merged = merge(merged, tree)
    assert isinstance(merged, Mapping)
    return merged


def _read_drop_ins(directory: str, problems: list[Problem]) -> Iterator[Source | None]:
    """The drop-ins in order of name; none of a directory that others may change."""
    try:
        why = others_may_change(os.stat(directory)) or others_may_redirect(directory)
        names = sorted(n for n in os.listdir(directory) if n.endswith(".yaml") and not n.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        why, names = f"cannot be read: {error.strerror}", []
    if not why and len(names) > DROP_IN_LIMIT:
        why = f"has more than {DROP_IN_LIMIT} files"
    if why:
        problems.append(Problem(Mark(directory), "directory", why))
        return
    for name in names:
        yield read_file(os.path.join(directory, name), problems)


# Checking.


def _check(tree: Mapping) -> list[Problem]:
    """Everything wrong with one file's tree."""
    raw = plain(tree)
    found = _complaints(_File, _without_empty_sections(raw))
    rules = [] if raw.get("rules") is None else raw["rules"]
    if not isinstance(rules, list):
        found.append((("rules",), "must be a list of rules"))
        rules = []
    for at, rule in enumerate(rules):
        found += [(("rules", at, *path), what) for path, what in _check_rule(rule)]
    return [Problem(mark_of(tree, path), _where(path, rules), what) for path, what in found]


def _without_empty_sections(raw: dict[str, Any]) -> dict[str, Any]:
    """A section whose keys are all commented out is there and says nothing."""
    return {key: value for key, value in raw.items() if value is not None or key not in _SECTIONS}


def _complaints(model: type[BaseModel], raw: Any) -> list[tuple[Path, str]]:
    """What a model says against a tree, with the paths to it."""
    try:
        model.model_validate(raw)
    except ValidationError as error:
        return [
            (tuple(e["loc"]) + path, what)
            for e in error.errors(include_url=False)
            for path, what in _in_words(e, model)
        ]
    return []


def _in_words(error: Any, model: type[BaseModel]) -> list[tuple[Path, str]]:
    """One complaint, in the words of this program; more where it stands for more, by the paths from it."""
    cause = error.get("ctx", {}).get("error")
    return cause.problems if isinstance(cause, _ProblemsError) else [((), _sentence(error, model))]


def _sentence(error: Any, model: type[BaseModel]) -> str:
    kind = error["type"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        section = _section(error["loc"][:-1], model)
        return f"unknown key{suggestion(str(error['loc'][-1]), keys_of(section))}"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "model_attributes_type"):
        return "must be a mapping"
    return str(error["msg"])


_SECTIONS: dict[str | int, type[BaseModel]] = {
    "capture": _Capture,
    "log": _Log,
    "redact": _Redact,
    "sigma": _Sigma,
}


def _section(path: Path, model: type[BaseModel]) -> type[BaseModel]:
    if path[:2] == ("sigma", "exclude"):
        return _Exclusion
    if path[:2] == ("redact", "patterns"):
        return _Pattern
    return _SECTIONS.get(path[0], model) if path else model


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a section, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _check_rule(raw: Any) -> list[tuple[Path, str]]:
    """Everything wrong with one rule."""
    found = _complaints(_Rule, raw)
    if not isinstance(raw, dict):
        return found
    if "match" in raw:
        try:
            compile_match(raw["match"])
        except MatchError as error:
            found += [(("match", *path), what) for path, what in error.problems]
    return found + _senseless(raw)


# Keys that mean nothing with an action.
_SENSELESS = {
    "drop": ("priority", "message", "fields", "tags", "limit"),
    "count": ("message", "fields", "tags", "limit"),
    "tag": ("limit",),
}


def _senseless(raw: dict[str, Any]) -> list[tuple[Path, str]]:
    """What a rule says in vain."""
    action = raw.get("action", "log")
    found: list[tuple[Path, str]] = []
    for key in _SENSELESS.get(action, ()) if isinstance(action, str) else ():
        if key in raw:
            found.append(((key,), f"means nothing where the action is {action}"))
    if action == "tag" and not any(raw.get(key) for key in ("tags", "fields", "priority", "message")):
        found.append((("action",), "a rule that tags needs tags, fields, a priority or a message"))
    if action != "count" and "limit" not in raw:
        found += [((key,), "needs the action count, or a limit") for key in ("every", "by") if key in raw]
    if "inherit" in raw and (action != "tag" or not raw.get("tags")):
        found.append((("inherit",), "needs the action tag, and tags"))
    return found


def _duplicates(merged: Mapping) -> list[Problem]:
    """Rules whose name another one has already, in whichever file."""
    rules = merged.entries.get("rules")
    first: dict[str, Mark] = {}
    found: list[Problem] = []
    for rule in getattr(rules, "items", ()):
        name = plain(rule).get("name") if isinstance(rule, Mapping) else None
        if not isinstance(name, str):
            continue
        mark = mark_of(rule, ("name",))
        if name in first:
            other = first[name]
            what = f"name {name[:64]!r} is taken by the rule at {other.file}:{other.line}"
            found.append(Problem(mark, f"rule {name[:64]}", what))
        first.setdefault(name, mark)
    return found


def _where(path: Path, rules: list[Any]) -> str:
    """The path as people read it: `rules[2] (name).match.exe|endswith`, counted from 1."""
    text = ""
    for at, step in enumerate(path):
        if isinstance(step, str):
            text += f".{step[:64]}" if text else step[:64]
            continue
        text += f"[{step + 1}]"
        if at == 1 and path[0] == "rules":
            rule = rules[step]
            name = rule.get("name") if isinstance(rule, dict) else None
            text += f" ({name[:64]})" if isinstance(name, str) else ""
    return text or "file"


# Building, of what was found good.


def _build(raw: dict[str, Any], files: tuple[str, ...]) -> Config:
    found = _File.model_validate(_without_empty_sections(raw))
    capture, log, sigma = found.capture, found.log, found.sigma
    if sigma.paths and "exec" not in capture.events:
        raise MatchError(
            [(("sigma", "paths"), "what is started is looked at: capture.events must have exec")]
        )
    exclusions = [Exclusion(each.id, each.match) for each in sigma.exclude]
    words: Any = log.fields[0] if log.fields in (["standard"], ["all"]) else frozenset(log.fields)
    return Config(
        Capture(
            frozenset(capture.events),
            capture.threads,
            capture.receive_buffer,
            capture.arguments,
            capture.accounting,
            capture.hash,
            tuple(capture.environment),
        ),
        Log(log.unmatched, log.priority, words, log.max_argv, log.limit),
        Redact(found.redact.builtin, tuple((each.name, each.regex) for each in found.redact.patterns)),
        RuleSet(
            _build_rules(raw.get("rules") or [], [each.match for each in exclusions]),
            unmatched=log.unmatched,
            priority=log.priority,
        ),
        load_sigma(sigma.paths, sigma.min_level, sigma.status, exclusions),
        files,
    )


def _build_rules(raw: list[Any], exclusions: list[Match]) -> list[Rule]:
    """The rules, where `exclusions` silence, too.

    Raises MatchError where one can be neither guarded nor left unguarded.
    """
    models = [_Rule.model_validate(rule) for rule in raw]
    matches = [compile_match(model.match) for model in models]
    rules: list[Rule] = []
    problems: list[tuple[Path, str]] = []
    inherited: set[str] = set()
    for at, (model, wanted) in enumerate(zip(models, _wanted(models, matches, exclusions), strict=True)):
        match = matches[at]
        # Who can fake what earns a tag could else fake what is silenced by it.
        if True in wanted and model.namespaces == "host":
            match = compile_match(model.match, silences=True)
        if match.is_guarded and False in wanted:
            problems.append((("rules", at, "match"), _TWO_MINDED))
        inherited.update(model.tags if model.inherit else ())
        if model.inherit and len(inherited) > INHERITED_LIMIT:
            problems.append(
                (("rules", at, "inherit"), f"more than {INHERITED_LIMIT} tags of all rules do so")
            )
        rules.append(_built(model, match))
    if problems:
        raise MatchError(problems)
    return rules


_TWO_MINDED = (
    "looks at an executable and gives tags that are needed for silence, and others, or the same, that must be absent "
    "for it: give them by rules of their own, or write 'namespaces: any'"
)


def _wanted(models: list[_Rule], matches: list[Match], exclusions: list[Match]) -> list[set[bool]]:
    """Whether silence wants each of the rules to hold, and whether it wants it not to.

    It wants a rule that silences, and what that or an exclusion asks of tags: the rules that give them, and so on.
    """
    asked_last = [(len(models), *asked) for match in exclusions for asked in match.tag_tests]
    found = [{True} if model.action in ("drop", "count") else set[bool]() for model in models]
    is_more = True
    while is_more:
        asked = asked_last + [
            (at, test, is_presence is each)
            for at, match in enumerate(matches)
            for each in found[at]
            for test, is_presence in match.tag_tests
        ]
        wider = [wanted | _asked_of(at, models[at], asked) for at, wanted in enumerate(found)]
        is_more, found = wider != found, wider
    return found


def _asked_of(giver: int, model: _Rule, asked: list[tuple[int, Callable[[str], bool], bool]]) -> set[bool]:
    """Whether the tags that a rule gives are asked to be there, and to be absent; to later rules, or to all events."""
    if model.action != "tag":
        return set()
    return {
        is_presence
        for asker, test, is_presence in asked
        if (model.inherit or asker > giver) and any(map(test, model.tags))
    }


def _built(model: _Rule, match: Match) -> Rule:
    return Rule(
        model.name,
        match,
        model.action,
        model.priority,
        tuple(model.tags),
        model.message,
        tuple(model.fields.items()),
        _suppression(model),
        model.inherit,
    )


def _suppression(model: _Rule) -> Suppression | None:
    if model.action != "count" and model.limit is None:
        return None
    period_ns = 0 if model.limit is None else model.limit.period_ns
    every_ns = max(SUMMARY_NS, period_ns) if model.every is None else model.every
    return Suppression(model.name, model.by, every_ns, model.limit)
