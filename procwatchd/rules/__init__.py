# SPDX-License-Identifier: MIT
"""What to do with an event: matches compiled to functions, the first that decides wins."""
