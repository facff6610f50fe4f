# SPDX-License-Identifier: MIT
"""How people get to see it: terminals, pagers, files, numbers with units."""
