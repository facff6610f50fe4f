# SPDX-License-Identifier: MIT
"""What entries come to: processes from begin to end, and who started whom."""
