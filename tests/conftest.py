"""One Hypothesis profile for all tests: the same examples on every machine and in any order.

``pytest --hypothesis-profile=deep`` looks further, at random.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch: a worker per core already, and tiny products

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "tpg", deadline=None, derandomize=True, database=None, max_examples=40, suppress_health_check=SLOW
)
settings.register_profile("deep", deadline=None, max_examples=400, suppress_health_check=SLOW)
settings.load_profile("tpg")
