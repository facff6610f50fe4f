# SPDX-License-Identifier: MIT
"""The package in a booted virtual machine, with systemd as PID 1."""
