"""The device of the tests that need a GPU."""

import os

DEVICE = os.environ.get("LOOKONCE_TEST_DEVICE", "cuda")
