# SPDX-License-Identifier: MIT
"""Lives over time, as a picture."""
