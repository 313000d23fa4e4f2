"""How much of a long test is done: a quarter, or all of it in `make nightly`."""

from hypothesis import settings
from scipy.stats import binom


def is_nightly():
    """Whether the tests were started with ``--hypothesis-profile=long``."""
    return settings.get_current_profile_name() == "long"


def quarter(n):
    """So many of n simulations, kills or faults; all of them at night."""
    return n if is_nightly() else max(1, n // 4)


def most(n, share=0.05):
    """How often what happens in a share of cases happens in n, but for 1 time in 50."""
    return binom.ppf(0.98, n, share)
