"""How property-based tests are tried: the same examples every time, and no limit on the time of a busy machine."""

from hypothesis import HealthCheck, settings

FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
