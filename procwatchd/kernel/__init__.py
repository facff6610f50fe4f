# SPDX-License-Identifier: MIT
"""What the kernel sends: wire format, sockets, the listener thread and its queue."""
