"""How long the tests take: `make test` has a quarter of an hour, `make soak` has no limit."""

import os

import pytest

SOAK = os.environ.get("SOAK") == "1"
# A second turn that differs from the first in one thing.
AT_FULL_LENGTH = pytest.mark.skipif(not SOAK, reason="at full length only: make soak")
