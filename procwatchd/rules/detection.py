# SPDX-License-Identifier: MIT
"""What an entry says of a Sigma rule that matched."""

from __future__ import annotations

from dataclasses import dataclass

# How serious, the least first, with the priority of an entry.
LEVELS = {"informational": 6, "low": 6, "medium": 5, "high": 4, "critical": 2}
# What a rule without a level counts as.
USUAL_LEVEL = "medium"

# Of one event, the most severe first; journald takes only so many fields.
DETECTIONS_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Detection:
    """A rule's own words about itself, each empty where it has none; `tags` with spaces between them."""

    rule_id: str
    title: str
    level: str
    tags: str = ""
    author: str = ""

    @property
    def rank(self) -> int:
        """The place of its level among LEVELS."""
        return list(LEVELS).index(self.level or USUAL_LEVEL)

    @property
    def priority(self) -> int:
        """The least severe priority that an entry with it may have."""
        return LEVELS[self.level or USUAL_LEVEL]
