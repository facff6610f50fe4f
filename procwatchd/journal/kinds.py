# SPDX-License-Identifier: MIT
"""The kinds of entries, by the word in their EVENT field: each with the MESSAGE_ID that the catalog explains."""

from __future__ import annotations

MESSAGE_IDS = {
    "fork": "30997ea9794a4a1881c0df47890ab1c9",
    "exec": "7f71ee63fc0b4a648c5176899e07eda0",
    "exit": "9d1c2f0569734d0aae840e0b948961ac",
    "uid": "d8e65be7b47944faa8f95f0a7aa132d7",
    "gid": "32db1e2253474df1b77449fe04acc5b8",
    "sid": "1c4f5564836841d088b121eaae861ee4",
    "ptrace": "5e1a9fce6de545839e7880631f07d422",
    "comm": "58eb44f69e7149b8abdebdefe8f4b440",
    "coredump": "5c4d49fba587455792549f3af76cb9a3",
    "start": "0ea1d9d76d9749668126e4b6207d5daa",
    "stop": "6b16d4768e3e44b7978f23ffd2d72c82",
    "reload": "73d7ee3521fc462a9346531587149642",
    "loss": "f1f60c1e11c247138541631ce0647c19",
    "blind": "3f7c258b5f904b5494c12a2d0d9d50ab",
    "resync": "897221eaf79943d6b734cd2325b45680",
    "listener": "5d0cba2bf6744f35b7a7b1d0b6b0f3a1",
    "summary": "c40bdefda5124a949dbf518a7cd169f3",
    "statistics": "22c0f33070ae4074a56cf09c74f1837c",
}

PREFIX = "PROCWATCH_"

# Levels, as numbered by syslog(3).
WARNING, NOTICE, INFO, DEBUG = 4, 5, 6, 7
