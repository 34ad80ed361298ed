"""The mark of tests that take long and check on a larger scale what other tests check: `make slow` runs them."""

import os

import pytest

slow = pytest.mark.skipif('COATNET_SLOW' not in os.environ, reason='takes long; `make slow` runs it')
