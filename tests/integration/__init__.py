# SPDX-License-Identifier: MIT
"""Against the real thing: this kernel, a real journald."""
