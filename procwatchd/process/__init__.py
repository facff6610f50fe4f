# SPDX-License-Identifier: MIT
"""Who lives: the table, reading /proc, and what is known of a process."""
