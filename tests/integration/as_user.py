# SPDX-License-Identifier: MIT
"""`python -m tests.integration.as_user UID ARG…`: procwatchd as this user.

By the time it gives up being root it has imported all that it will need: an interpreter in root's own
directories would be closed to the user.
"""

from __future__ import annotations

import codecs
import os
import sys

from procwatchd.daemon import main

if __name__ == "__main__":
    uid = int(sys.argv[1])
    codecs.lookup("ascii")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    sys.exit(main(sys.argv[2:]))
