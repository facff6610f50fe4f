# SPDX-License-Identifier: MIT
"""The tests; a package, so that they can share helpers."""
