# SPDX-License-Identifier: MIT
"""The configuration: which files, what may stand in them, and what it comes to.

Each file is checked on its own, so that a problem is reported where it was written even if another file
would replace it. Only if all are good they are merged and built. The models check once; what leaves this
module is plain.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from procwatchd.errors import ConfigError
from procwatchd.process.fields import ENTRY_ONLY, EVENTS, FIELDS
from procwatchd.rules.match import Match, MatchError, Path, TagTest, compile_match
from procwatchd.rules.names import SIGMA, TAGS, name_of, suggestion, unknown_field
from procwatchd.rules.ruleset import Rule, RuleSet, Verdict
from procwatchd.rules.template import Template, TemplateError, parse_template
from procwatchd.yamltree import FILE_LIMIT_BYTES, Mapping, Mark, Problem, mark_of, merge, parse_yaml, plain

MAIN_FILE = "/etc/procwatchd.yaml"
DROP_IN_DIRECTORY = "/etc/procwatchd.d"
DAEMON_USER = "procwatchd"  # as the unit has it

# Limits.
DROP_IN_LIMIT = 1000
LIST_LIMIT = 1000  # items of a list that is not the rules
LINK_LIMIT = 40  # symbolic links on the way to a file, as the kernel has it
RECEIVE_BUFFER_BYTES = (64 << 10, 1 << 30)
MAX_ARGV_BYTES = (256, 128 << 10)

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
    "RECORDINGS_UNUSED SIGNALS_FORGOTTEN KEPT".split()
)
_TAKEN = frozenset(FIELDS) | ENTRY_ONLY | SIGMA | _OTHER_ENTRIES | {TAGS}

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_TRUTH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")  # journald's limit is 64, with PROCWATCH_ENV_
_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAG = re.compile(r"[a-z0-9_.:-]{1,64}")
_OWN_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,53}")  # journald's limit is 64, with PROCWATCH_
_OWN_TEXT_LIMIT = 1024


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
    """What entries look like. `fields` are names as in FIELDS (RULE and TAGS besides), or one of the two words."""

    unmatched: Verdict
    priority: int
    fields: Literal["standard", "all"] | frozenset[str]
    max_argv_bytes: int


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. `files` are those it was read from, in order."""

    capture: Capture
    log: Log
    rules: RuleSet
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


def _word(*known: str, later: tuple[str, ...] = ()) -> BeforeValidator:
    def check(value: Any) -> str:
        text = _text(value)
        if text in later:
            raise ValueError(f"{text!r} is not supported yet")
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
    if name in SIGMA:
        raise ValueError(f"field {key!r} is not supported yet")
    if name not in FIELDS and name not in ENTRY_ONLY and name != TAGS:
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


def _later(_value: Any) -> None:
    raise ValueError("not supported yet")


def _limit(value: Any) -> str:
    if value != "off":
        raise ValueError("only 'off': limits are not supported yet")
    return "off"


_Switch = Annotated[bool, BeforeValidator(_switch)]
_Priority = Annotated[int, BeforeValidator(_priority)]
_Later = Annotated[None, BeforeValidator(_later)]
_Event = Annotated[str, _word(*EVENTS)]
_Tag = Annotated[str, _like(_TAG, "a tag")]
_Variable = Annotated[str, _like(_VARIABLE, "the name of a variable")]


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
    unmatched: Annotated[Verdict, _word("log", "drop")] = "log"
    priority: _Priority = 6
    fields: Annotated[list[str], BeforeValidator(_entry_fields)] = ["standard"]
    max_argv: Annotated[int, _size(*MAX_ARGV_BYTES)] = Field(default=4 << 10, alias="max-argv")
    limit: Annotated[str, BeforeValidator(_limit)] = "off"


class _File(_Model):
    capture: _Capture = Field(default_factory=lambda: _Capture.model_validate({}))
    log: _Log = Field(default_factory=lambda: _Log.model_validate({}))
    redact: _Later = None
    sigma: _Later = None
    rules: Any = None  # each is checked on its own, so that one bad rule does not hide another's problems


class _Rule(_Model):
    name: Annotated[str, _like(_RULE_NAME, "a name for a rule")]
    match: Any
    action: Annotated[Literal["log", "drop", "tag"], _word("log", "drop", "tag", later=("count",))] = "log"
    priority: Annotated[int | None, BeforeValidator(_priority)] = None
    tags: Annotated[list[_Tag], BeforeValidator(_list)] = []
    message: Annotated[Template | None, BeforeValidator(_message)] = None
    fields: Annotated[dict[str, str], BeforeValidator(_own_fields)] = {}
    namespaces: Annotated[str, _word("host", "any")] = "host"
    limit: _Later = None
    every: _Later = None
    by: _Later = None


MODELS: tuple[type[BaseModel], ...] = (_File, _Capture, _Log, _Rule)


def load_config(
    main: str | None = None, *, main_file: str = MAIN_FILE, drop_in_directory: str = DROP_IN_DIRECTORY
) -> Config:
    """The configuration in the file `main` alone, or for None that of the default places.

    Of those any may be missing; all must be such that only root and the daemon's user can change them.
    Raises ConfigError with all problems of all files, by file and line.
    """
    problems: list[Problem] = []
    if main is not None:
        sources = [_read_file(main, problems, is_trusted=True)]
    else:
        sources = [_read_file(main_file, problems, may_be_missing=True)]
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
        rules = plain(merged)["rules"]
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


# Files.


@dataclass(frozen=True, slots=True)
class _Source:
    path: str
    data: bytes


def _read_file(
    path: str,
    problems: list[Problem],
    *,
    is_trusted: bool = False,
    may_be_missing: bool = False,
) -> _Source | None:
    """What is in a file; None with a problem noted, or where it may be missing and is."""

    def problem(what: str) -> None:
        problems.append(Problem(Mark(path), "file", what))

    try:
        # Non-blocking, since opening a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if not may_be_missing or not isinstance(error, FileNotFoundError) or os.path.islink(path):
            problem(f"cannot be opened: {getattr(error, 'strerror', None) or error}")
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            problem("is not a regular file")
        elif not is_trusted and (why := _others_may_change(status) or _others_may_redirect(path)):
            problem(why)
        else:
            return _Source(path, _read_all(fd))
    except OSError as error:
        problem(f"cannot be read: {error.strerror}")
    finally:
        os.close(fd)
    return None


def _read_all(fd: int) -> bytes:
    """The file, at most one byte more than may be."""
    data = b""
    while len(data) <= FILE_LIMIT_BYTES:
        chunk = os.read(fd, FILE_LIMIT_BYTES + 1 - len(data))
        if not chunk:
            break
        data += chunk
    return data


def _others_may_change(status: os.stat_result) -> str:
    """Why others than root and this process's user may change a file or directory; "" where they may not."""
    if status.st_uid not in _trusted_uids():
        return f"belongs to uid {status.st_uid}, who may change it: only root and the daemon's user may"
    others = stat.S_IWOTH if status.st_gid == 0 else stat.S_IWGRP | stat.S_IWOTH
    if status.st_mode & others:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may change it"
    return ""


def _trusted_uids() -> set[int]:
    """Root, this process's user, and where that is root the daemon's: `--check` must judge as the daemon does."""
    uids = {0, os.geteuid()}
    if uids == {0}:
        try:
            uids.add(pwd.getpwnam(DAEMON_USER).pw_uid)
        except KeyError:
            pass  # it runs as root here
    return uids


def _others_may_redirect(path: str) -> str:
    """Why others may decide where a path leads; "" where they may not."""
    for place in _way_to(path):
        status = os.lstat(place)
        if (
            stat.S_ISDIR(status.st_mode)
            and status.st_mode & stat.S_ISVTX
            and status.st_uid in _trusted_uids()
        ):
            continue  # what is in it can be moved by its owner alone, who is looked at next
        if stat.S_ISLNK(status.st_mode):
            why = "" if status.st_uid in _trusted_uids() else f"belongs to uid {status.st_uid}"
        else:
            why = _others_may_change(status)
        if why:
            return f"is reached through {place}, which {why}"
    return ""


def _way_to(path: str) -> Iterator[str]:
    """All directories and links that the kernel looks at for a path, from the root on, but not where it ends.

    Raises OSError.
    """
    place, left, links = "/", [*reversed(os.path.abspath(path).split("/"))], 0
    yield place
    while left:
        step = left.pop()
        if step in ("", "."):
            continue
        if step == "..":
            place = os.path.dirname(place)
            continue
        found = os.path.join(place, step)
        mode = os.lstat(found).st_mode
        if stat.S_ISLNK(mode):
            yield found
            links += 1
            if links > LINK_LIMIT:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(found)
            place = "/" if target.startswith("/") else place
            left += reversed(target.split("/"))
            continue
        place = found
        if left:
            yield place


def _read_drop_ins(directory: str, problems: list[Problem]) -> Iterator[_Source | None]:
    """The drop-ins in order of name; none of a directory that others may change."""
    try:
        why = _others_may_change(os.stat(directory)) or _others_may_redirect(directory)
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
        yield _read_file(os.path.join(directory, name), problems)


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
    return {key: value for key, value in raw.items() if value is not None or key not in ("capture", "log")}


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


def _section(path: Path, model: type[BaseModel]) -> type[BaseModel]:
    if path == ("capture",):
        return _Capture
    return _Log if path == ("log",) else model


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
    action = raw.get("action")
    if action == "drop":
        senseless = [key for key in ("priority", "message", "fields", "tags") if key in raw]
        found += [((key,), "means nothing where nothing is written: the action is drop") for key in senseless]
    if action == "tag" and not any(raw.get(key) for key in ("tags", "fields", "priority", "message")):
        found.append((("action",), "a rule that tags needs tags, fields, a priority or a message"))
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
    capture, log = found.capture, found.log
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
        Log(log.unmatched, log.priority, words, log.max_argv),
        RuleSet(_build_rules(raw.get("rules") or []), unmatched=log.unmatched, priority=log.priority),
        files,
    )


def _build_rules(raw: list[Any]) -> list[Rule]:
    """The rules. Raises MatchError where one can be neither guarded nor left unguarded."""
    models = [_Rule.model_validate(rule) for rule in raw]
    # What rules that silence ask of tags, themselves or through rules that tag for them. Tags are given to
    # later rules alone, so that one way from the last to the first finds all.
    asked: list[TagTest] = []
    rules: list[Rule] = []
    problems: list[tuple[Path, str]] = []
    for at, model in reversed([*enumerate(models)]):
        # Who can fake what earns a tag could else fake what is silenced by it.
        wanted = {True} if model.action == "drop" else _wanted(model, asked)
        match = compile_match(model.match, silences=True in wanted and model.namespaces == "host")
        if match.is_guarded and False in wanted:
            problems.append((("rules", at, "match"), _TWO_MINDED))
        for each in wanted:
            asked += [(test, is_presence is each) for test, is_presence in match.tag_tests]
        rules.append(_built(model, match))
    if problems:
        raise MatchError(problems[::-1])
    return rules[::-1]


_TWO_MINDED = (
    "looks at an executable and gives tags that are needed for silence, and others, or the same, that must be absent "
    "for it: give them by rules of their own, or write 'namespaces: any'"
)


def _wanted(model: _Rule, asked: list[TagTest]) -> set[bool]:
    """Whether the tags that a rule gives are asked to be there, and to be absent."""
    if model.action != "tag":
        return set()
    return {is_presence for test, is_presence in asked if any(map(test, model.tags))}


def _built(model: _Rule, match: Match) -> Rule:
    return Rule(
        model.name,
        match,
        model.action,
        model.priority,
        tuple(model.tags),
        model.message,
        tuple(model.fields.items()),
    )
