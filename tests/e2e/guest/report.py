# SPDX-License-Identifier: MIT
"""What a scenario found, a line each for the host: it fails where one begins with `not ok`."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

MAX_EVIDENCE = 2000


def check(name: str, condition: object, evidence: object = "") -> bool:
    """Say whether this holds; gives that. `evidence` is shown where it does not."""
    if condition:
        print(f"ok {name}", flush=True)
        return True
    text = str(evidence)
    if len(text) > MAX_EVIDENCE:
        text = f"{text[: MAX_EVIDENCE // 2]} … {text[-MAX_EVIDENCE // 2 :]}"
    print(f"not ok {name}: {_one_line(text)}", flush=True)
    return False


def note(text: object) -> None:
    """Say what one may want to know, and nothing is judged by."""
    print(f"# {_one_line(str(text))}", flush=True)


def run_steps(steps: Sequence[Callable[[], None]]) -> None:
    """Call them in order; one that raises has failed, and the next ones are called all the same."""
    for step in steps:
        uptime = Path("/proc/uptime").read_text().split()[0]
        note(f"{uptime} s: {step.__name__}")
        try:
            step()
        except Exception:
            # Whatever a step ran into is what the host wants to know.
            check(step.__name__, condition=False, evidence=traceback.format_exc())


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Wait until it holds; False where it does not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " | ")
