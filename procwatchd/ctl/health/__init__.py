# SPDX-License-Identifier: MIT
"""Whether this machine is able, and the daemon well."""
