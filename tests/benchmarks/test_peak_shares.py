"""The shares of the peak: which rounds count as which, and the table's rows."""

from types import SimpleNamespace

import peak_shares
import pytest
from rooflines import processor_rates


def rates(instructions):
    return SimpleNamespace(instructions=instructions)


def test_rounds_in_which_the_other_thread_comes_or_goes_do_not_count():
    assert peak_shares.state([rates(4.9), rates(4.1)]) == "idle"
    assert peak_shares.state([rates(2.3), rates(2.9)]) == "busy"
    assert peak_shares.state([rates(2.3), rates(4.9)]) is None
    assert peak_shares.state([rates(3.3), rates(4.9)]) is None


def test_a_row_has_median_and_quartiles_and_none_of_few_rounds():
    found = {"idle": [(share / 100, 0.001) for share in (90, 70, 80, 75, 85)], "busy": [(0.5, 0.002)] * 3}
    assert peak_shares.row("work", found) == "| work | 80% [75%, 85%], 5 | 1.00 |  |  |"


def test_rates_are_those_of_a_processor():
    library = processor_rates()
    if library is None:
        pytest.skip("the processor has no AVX-512")
    now = peak_shares.Rates(library)
    # At most 16 instructions start in a cycle, and two vectors of multiply-adds; clocks are between 0.1 and 10 GHz.
    assert 0 < now.instructions < 16
    assert 16 * 1e8 < now.multiply_adds < 32 * 1e10
