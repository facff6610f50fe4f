# SPDX-License-Identifier: MIT
"""The service in the guest: runs the steps of the scenario that the kernel's command line names."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

from tests.e2e.guest.report import run_steps


def main() -> None:
    """Run this boot's steps, say what comes next, and let that happen."""
    words = Path("/proc/cmdline").read_text().split()
    options = dict(word.split("=", 1) for word in words if word.startswith("e2e."))
    boots = importlib.import_module(f"tests.e2e.guest.{options['e2e.scenario']}").BOOTS
    boot = int(options["e2e.boot"])
    run_steps(boots[boot - 1])
    if boot == len(boots):
        print("end", flush=True)
        return
    # The unit's end turns the machine off, unless it is told of this.
    Path("goes-on").touch()
    # Said first: this ends with the rest.
    print("reboot", flush=True)
    subprocess.run(["systemctl", "--no-block", "reboot"], check=True)


main()
