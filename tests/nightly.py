"""How much of a long test is done: a quarter, or all of it in `make nightly`."""

from hypothesis import settings


def is_nightly():
    """Whether the tests were started with ``--hypothesis-profile=long``."""
    return settings.get_current_profile_name() == "long"


def quarter(n):
    """So many of n simulations, kills or faults; all of them at night."""
    return n if is_nightly() else max(1, n // 4)
