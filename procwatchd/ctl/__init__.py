# SPDX-License-Identifier: MIT
"""procwatchctl: what a person asks of rules and of the past."""
