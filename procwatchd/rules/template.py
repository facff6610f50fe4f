# SPDX-License-Identifier: MIT
"""Messages of rules: text with fields in braces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from procwatchd.process.fields import ENTRY_ONLY, FIELDS
from procwatchd.rules.names import TAGS, Scope, Target, UnknownNameError, name_of, resolve

# Limits.
TEMPLATE_LIMIT = 1024  # characters

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(ValueError):
    """A template that cannot be; `problems` say why, one each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Template:
    """A message to be filled in: texts, and at odd places names of fields, as in `render`."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields it names, in order."""
        return self.parts[1::2]

    def render(self, text_of: Callable[[str], str]) -> str:
        """The message; `text_of` gives the output form of a field by its name, "" where it is absent.

        A name is one of FIELDS (CMDLINE), RULE or TAGS, or `PARENT.UID` for what only the parent has.
        """
        parts = list(self.parts)
        for at in range(1, len(parts), 2):
            parts[at] = text_of(parts[at])
        return "".join(parts)


def parse_template(text: str) -> Template:
    """The template that `text` is: `{exit-code}` a field, `{{` and `}}` braces.

    Raises TemplateError with all problems.
    """
    problems: list[str] = []
    if len(text) > TEMPLATE_LIMIT:
        raise TemplateError([f"longer than {TEMPLATE_LIMIT} characters"])
    if not text.isprintable():
        problems.append("must be one line of printable characters")
    parts = [""]
    at = 0
    for token in _TOKEN.finditer(text):
        parts[-1] += text[at : token.start()]
        at = token.end()
        if token[1] is not None:
            try:
                parts += [_name(token[1]), ""]
            except UnknownNameError as problem:
                problems.append(str(problem))
        elif len(token[0]) == 2:
            parts[-1] += token[0][0]
        else:
            problems.append(f"single {token[0]!r}: write {token[0] * 2!r} for the character itself")
    parts[-1] += text[at:]
    if problems:
        raise TemplateError(problems)
    return Template(tuple(parts))


def _name(key: str) -> str:
    name = name_of(key)
    if name in ENTRY_ONLY or name == TAGS:
        return name
    target = resolve(key)
    if target.scope is Scope.ANCESTOR:
        raise UnknownNameError(f"{key!r}: there may be many ancestors; use 'ancestors' or 'parent.'")
    return name_in_entry(target)


def name_in_entry(target: Target) -> str:
    """The name of a field of the record or its parent, as in `Template.render`."""
    name = target.field.name
    if target.scope is not Scope.PARENT:
        return name
    return f"PARENT_{name}" if f"PARENT_{name}" in FIELDS else f"PARENT.{name}"
