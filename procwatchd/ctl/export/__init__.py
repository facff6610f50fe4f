# SPDX-License-Identifier: MIT
"""Entries in other programs' forms."""
