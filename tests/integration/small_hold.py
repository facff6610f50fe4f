# SPDX-License-Identifier: MIT
"""`python -m tests.integration.small_hold ARG…`: procwatchd that holds back little for a journald that is gone."""

from __future__ import annotations

import functools
import sys
from unittest import mock

from procwatchd.daemon import main
from procwatchd.journal.native import JournaldWriter

HOLD_BYTES = 20_000

if __name__ == "__main__":
    with mock.patch(
        "procwatchd.daemon.JournaldWriter", functools.partial(JournaldWriter, hold_bytes=HOLD_BYTES)
    ):
        sys.exit(main(sys.argv[1:]))
