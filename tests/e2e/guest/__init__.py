# SPDX-License-Identifier: MIT
"""What runs in the guest, with the standard library alone.

A scenario is a module with BOOTS: for each boot of the machine the steps, functions that are called in order and say by
`check` what they found. Between two boots the machine is restarted as a user would.
"""
