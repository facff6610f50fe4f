# SPDX-License-Identifier: MIT
"""What rules are worth, and what they would have made of the past."""
