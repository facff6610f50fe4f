# SPDX-License-Identifier: MIT
"""How fast, how complete, how big: measured, never asserted."""
