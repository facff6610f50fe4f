# SPDX-License-Identifier: MIT
"""What the tags of Sigma rules say of MITRE ATT&CK.

Facts:
- `attack.execution` is a tactic, its words joined by `-`, or by `_` in older rules; `attack.t1059.001` a technique,
  with a sub-technique [Sigma's specification, Tags].
- The tactics have names and ids of their own [attack.mitre.org, Enterprise tactics].
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TACTICS = {
    "reconnaissance": ("TA0043", "Reconnaissance"),
    "resource-development": ("TA0042", "Resource Development"),
    "initial-access": ("TA0001", "Initial Access"),
    "execution": ("TA0002", "Execution"),
    "persistence": ("TA0003", "Persistence"),
    "privilege-escalation": ("TA0004", "Privilege Escalation"),
    "defense-evasion": ("TA0005", "Defense Evasion"),
    "credential-access": ("TA0006", "Credential Access"),
    "discovery": ("TA0007", "Discovery"),
    "lateral-movement": ("TA0008", "Lateral Movement"),
    "collection": ("TA0009", "Collection"),
    "exfiltration": ("TA0010", "Exfiltration"),
    "command-and-control": ("TA0011", "Command and Control"),
    "impact": ("TA0040", "Impact"),
}
_TECHNIQUE = re.compile(r"attack\.(t[0-9]{4})(\.[0-9]{3})?")


@dataclass(slots=True)
class Attack:
    """Tactics as ids and names; ids of techniques, and of sub-techniques with that of their technique; each once."""

    tactics: list[tuple[str, str]] = field(default_factory=list)
    techniques: list[str] = field(default_factory=list)
    subtechniques: list[tuple[str, str]] = field(default_factory=list)


def attack_of(tags: Iterable[str]) -> Attack:
    """What is known here of these tags, each one or several with spaces between them."""
    found = Attack()
    for tag in dict.fromkeys(word for words in tags for word in words.lower().split()):
        technique = _TECHNIQUE.fullmatch(tag)
        tactic = _TACTICS.get(tag.removeprefix("attack.").replace("_", "-"))
        if technique is not None:
            _add_technique(found, technique[1].upper(), technique[2])
        elif tactic is not None and tag.startswith("attack."):
            found.tactics.append(tactic)
    return found


def _add_technique(found: Attack, technique: str, part: str | None) -> None:
    if technique not in found.techniques:
        found.techniques.append(technique)
    if part is not None:
        found.subtechniques.append((technique, technique + part))
