"""Every fault of `cases` is found where it is, or the comparison is refused in a sentence that says why."""

import pytest

import parity
from tests.parity.strangers.cases import CASES
from tests.parity.strangers.models import first


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_no_fault_is_passed_over(case):
    reference, candidate, inputs, options, *expected = case()
    if len(expected) == 1:
        with pytest.raises(ValueError, match=expected[0]):
            parity.compare(reference, candidate, inputs, **options)
        return
    report = parity.compare(reference, candidate, inputs, **options)
    assert not report.passed
    assert first(report) == tuple(expected), report
    assert str(report)
