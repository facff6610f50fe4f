# SPDX-License-Identifier: MIT
"""YAML as a tree that knows where each of its leaves was written.

Scalars stay their source text: what `off`, `0700` or `1:30` mean is for the schema to say, not for YAML's
rules. The parser's events are read one by one, so that no depth of nesting costs stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

# Limits.
FILE_LIMIT_BYTES = 1 << 20
DEPTH_LIMIT = 32
NODES_LIMIT = 100_000
NUMBER_LIMIT = 64  # characters of a scalar that may be a number; what is longer is a text

# Both of PyYAML's readers refuse these, each in its own words and counting its own way.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_CONSTRUCTORS: dict[str, Callable[[yaml.ScalarNode], Any]] = {
    "null": _CONSTRUCTOR.construct_yaml_null,
    "bool": _CONSTRUCTOR.construct_yaml_bool,
    "int": _CONSTRUCTOR.construct_yaml_int,
    "float": _CONSTRUCTOR.construct_yaml_float,
}


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file, counted from 1."""

    file: str
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong, and where; its text is `FILE:LINE:COLUMN: where: what`."""

    mark: Mark
    where: str
    what: str

    def __str__(self) -> str:
        return printable(f"{self.mark.file}:{self.mark.line}:{self.mark.column}: {self.where}: {self.what}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf; `text` is None for an empty plain one. `is_plain`: it was written without quotes."""

    text: str | None
    mark: Mark
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys with their values, in the order they were written; `marks` is where each key is."""

    entries: dict[str, Node]
    marks: dict[str, Mark]
    mark: Mark


Node = Scalar | Sequence | Mapping


def printable(text: str) -> str:
    """The text in one line that can be shown on any terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def plain(node: Node) -> Any:
    """The tree as dict, list, str and None."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.text


def typed(node: Node) -> Any:
    """The same where plain scalars are what YAML 1.1 takes them for: None, bool, int and float; else texts."""
    if isinstance(node, Mapping):
        return {key: typed(value) for key, value in node.entries.items()}
    if isinstance(node, Sequence):
        return [typed(item) for item in node.items]
    if not node.is_plain or node.text is None or len(node.text) > NUMBER_LIMIT:
        return node.text
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, node.text, (True, False))
    construct = _CONSTRUCTORS.get(tag.removeprefix("tag:yaml.org,2002:"))
    try:
        return node.text if construct is None else construct(yaml.ScalarNode(tag, node.text))
    except ValueError:
        return node.text  # by its looks alone a number, as `0x_`


def mark_of(node: Node, path: tuple[str | int, ...]) -> Mark:
    """Where `path` was written: a mapping's key, a list's item; the nearest above it that was."""
    mark = node.mark
    for step in path:
        if isinstance(node, Mapping) and isinstance(step, str) and step in node.entries:
            mark, node = node.marks[step], node.entries[step]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark


def merge(base: Node, over: Node, *, appends: tuple[str, ...] = ("rules",)) -> Node:
    """`over` laid over `base`: mappings merge, the root's lists in `appends` append, all else is replaced.

    A key with nothing behind it adds nothing to a mapping or to such a list. Every leaf keeps its mark.
    """
    if _is_empty(over) and isinstance(base, Mapping):
        return base
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    entries = dict(base.entries)
    for key, value in over.entries.items():
        old = entries.get(key)
        if old is None:
            entries[key] = value
        elif key in appends:
            entries[key] = _append(old, value)
        else:
            entries[key] = merge(old, value, appends=())
    return Mapping(entries, base.marks | over.marks, over.mark)


def _append(base: Node, over: Node) -> Node:
    if isinstance(base, Sequence) and isinstance(over, Sequence):
        return Sequence(base.items + over.items, base.mark)
    return base if _is_empty(over) else over


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.text is None


def parse_yaml(data: bytes, file: str) -> tuple[Mapping, list[Problem]]:
    """The tree of a file's contents, and everything wrong with it; what is wrong is left out of the tree."""
    builder = _Builder(file)
    text = _decode(data, builder)
    if text is not None:
        try:
            builder.read(yaml.parse(text, Loader=_LOADER))
        except yaml.MarkedYAMLError as error:
            builder.syntax_problem(error)
        except yaml.YAMLError as error:  # the reader's: without a mark
            builder.problem(Mark(file), "yaml", " ".join(str(error).split()))
    root = builder.root
    if root is None or _is_empty(root):
        root = Mapping({}, {}, Mark(file))
    elif not isinstance(root, Mapping):
        builder.problem(root.mark, "file", "must be a mapping of sections")
        root = Mapping({}, {}, Mark(file))
    return root, builder.problems


def _decode(data: bytes, builder: _Builder) -> str | None:
    """The file's text, None with a problem noted."""
    if len(data) > FILE_LIMIT_BYTES:
        builder.problem(Mark(builder.file), "file", f"larger than {FILE_LIMIT_BYTES} bytes")
        return None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        builder.problem(
            _mark_at(builder.file, before), "file", f"byte 0x{data[error.start]:02x} is not UTF-8"
        )
        return None
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        mark = _mark_at(builder.file, text[: bad.start()])
        builder.problem(mark, "file", f"character U+{ord(bad[0]):04X} is not allowed in YAML")
        return None
    return text


def _mark_at(file: str, before: str) -> Mark:
    """The place right after the text `before`."""
    return Mark(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


@dataclass(slots=True)
class _Open:
    """A list or a mapping of which the end was not yet read. `key` waits for its value."""

    mark: Mark
    where: str
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    key: str | None = None
    key_is_next: bool = True

    def close(self) -> Node:
        """The finished node."""
        if self.is_mapping:
            return Mapping(self.entries, self.marks, self.mark)
        return Sequence(tuple(self.items), self.mark)


def _is_nothing(event: yaml.NodeEvent) -> bool:
    is_empty = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.value
    return is_empty and event.anchor is None


class _Builder:
    """Makes the tree from the parser's events."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self._open: list[_Open] = []
        self._nodes = 0

    def problem(self, mark: Mark, where: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(mark, where, what))

    def syntax_problem(self, error: yaml.MarkedYAMLError) -> None:
        """Note where the parser gave up, and why."""
        at = error.problem_mark or error.context_mark
        mark = Mark(self.file) if at is None else Mark(self.file, at.line + 1, at.column + 1)
        self.root = None  # half a file would only bring more complaints
        self.problem(mark, "yaml", " ".join(filter(None, (error.problem, error.context))) or "bad syntax")

    def read(self, events: Iterator[yaml.Event]) -> None:
        """Take all events, up to the first limit."""
        document = Mark(self.file)
        for event in events:
            at = event.start_mark
            mark = Mark(self.file) if at is None else Mark(self.file, at.line + 1, at.column + 1)
            if isinstance(event, yaml.DocumentStartEvent):
                document = mark
            elif isinstance(event, yaml.NodeEvent):
                if not self._open:
                    if _is_nothing(event):
                        continue  # an empty document, as after a `---` at the end
                    if self.root is not None:
                        self.problem(document, "file", "has a second document; one file is one document")
                        return
                self._nodes += 1
                if self._nodes > NODES_LIMIT:
                    self.problem(mark, "file", f"has more than {NODES_LIMIT} nodes")
                    return
                if len(self._open) >= DEPTH_LIMIT and isinstance(event, yaml.CollectionStartEvent):
                    self.problem(mark, self._where(), f"nested deeper than {DEPTH_LIMIT}")
                    return
                self._node(event, mark)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._place(self._open.pop().close())

    def _node(self, event: yaml.NodeEvent, mark: Mark) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.problem(mark, self._where(), "aliases are not supported")
            self._place(Scalar("", mark), key=None)
            return
        if event.anchor is not None:
            self.problem(mark, self._where(), "anchors are not supported")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.problem(mark, self._where(), f"the tag {tag[:64]!r} is not supported: no tags are")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, mark)
            return
        top = self._open[-1] if self._open else None
        if top is not None and top.is_mapping and top.key_is_next:
            self.problem(mark, self._where(), "a key must be a text")
        self._open.append(_Open(mark, self._where(), isinstance(event, yaml.MappingStartEvent)))

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        text = event.value
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            self.problem(mark, self._where(), "has half a surrogate pair, which is no character")
            text = ""
        is_plain = event.implicit[0]
        scalar = Scalar(None if is_plain and not text else text, mark, is_plain)
        self._place(scalar, key=text, is_plain=is_plain)

    def _place(self, node: Node, *, key: str | None = None, is_plain: bool = False) -> None:
        """Put a finished node where it belongs; `key` is its text where that is to be a key."""
        top = self._open[-1] if self._open else None
        if top is None:
            self.root = node
        elif not top.is_mapping:
            top.items.append(node)
        elif top.key_is_next:
            self._key(top, node, key, is_plain=is_plain)
            top.key_is_next = False
        else:
            if top.key is not None:
                top.entries[top.key] = node
            top.key_is_next = True

    def _key(self, top: _Open, node: Node, key: str | None, *, is_plain: bool) -> None:
        """Note the key whose value comes next; None for one whose value is to be left out."""
        top.key = None
        if not isinstance(node, Scalar) or key is None:
            return  # a problem already
        if key == "<<" and is_plain:
            self.problem(node.mark, top.where, "merge keys are not supported")
        elif node.text is None:
            self.problem(node.mark, top.where, "a key must not be empty")
        elif key in top.marks:
            first = top.marks[key]
            self.problem(node.mark, top.where, f"key {key[:64]!r} is here twice, first in line {first.line}")
        else:
            top.key = key
            top.marks[key] = node.mark

    def _where(self) -> str:
        """The path to what comes next."""
        if not self._open:
            return "file"
        top = self._open[-1]
        prefix = "" if top.where == "file" else top.where
        if not top.is_mapping:
            return f"{prefix}[{len(top.items) + 1}]"
        if top.key_is_next or top.key is None:
            return top.where
        return f"{prefix}.{top.key[:64]}" if prefix else top.key[:64]
