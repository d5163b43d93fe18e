"""How often the tests with random examples, kills or many requests repeat these."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("TEST_REPETITIONS", "1"))
"""Factor for their numbers. `nox -s nightly` sets 10."""
