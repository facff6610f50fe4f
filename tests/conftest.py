# SPDX-License-Identifier: MIT
"""A busy machine is no reason for a test to fail: examples may take as long as they do."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
