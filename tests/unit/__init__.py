# SPDX-License-Identifier: MIT
"""Tests without root, kernel and journald."""
