# SPDX-License-Identifier: MIT
"""What there is to look at: entries, what they say, and which of them are wanted."""
