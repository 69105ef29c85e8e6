"""Programmatic dependent launch (compute capability 9.0 and later): a kernel starts while the one before it on the
stream ends. No kernel reads or writes before it has waited for that one, so the order of writes is as without it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda.gdc import gdc_launch_dependents, gdc_wait


@triton.jit
def after_the_last_kernel(PDL: tl.constexpr):
    """Lets the next kernel start once all programs of this one have, and waits until the writes of the last one, and
    thereby of all before, are visible. Without PDL a kernel starts after that anyway.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
