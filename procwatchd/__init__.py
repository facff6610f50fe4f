# SPDX-License-Identifier: MIT
"""procwatchd logs the lifecycle of processes to the systemd journal."""

__version__ = "0.1.0"
