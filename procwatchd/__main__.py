# SPDX-License-Identifier: MIT
"""For `python -m procwatchd`."""

import sys

from procwatchd.daemon import main

sys.exit(main())
