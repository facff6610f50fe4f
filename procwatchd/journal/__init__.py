# SPDX-License-Identifier: MIT
"""What is written: entries, their texts, and the writers."""
