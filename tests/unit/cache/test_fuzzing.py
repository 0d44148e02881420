import random

from .fuzzing import fuzz


def test_wrong_values_are_refused_or_whole():
    """A short run of `python -m tests.unit.cache.fuzzing`."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201, to repeat a failure with
    outcomes = fuzz(20_000, seed).outcomes
    assert outcomes.keys() == {"whole", "foreign", "version", "truncated", "trailing", "header", "checksum"}
    assert outcomes["whole"] > 500  # most of them changed, and valid
