# SPDX-License-Identifier: MIT
"""What ran most, took most, failed most."""
