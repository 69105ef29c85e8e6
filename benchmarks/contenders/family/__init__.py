"""The contenders of `bench_family.py`. Each is a module with `MISSING`, why its requirements cannot be imported, or
None; `supports(work)`, why it has no such sampler, or None; and `make(work)`, a `family_checks.Chain`.
"""

from __future__ import annotations

from types import ModuleType

from . import blackjax_kernels, by_hand, ebmkit_samplers, ours, torchebm_hmc

OURS, BASELINE = "fastlangevin", "eager"
FAMILY: dict[str, ModuleType] = {
    OURS: ours,
    BASELINE: by_hand,
    "blackjax": blackjax_kernels,
    "ebmkit": ebmkit_samplers,
    "torchebm": torchebm_hmc,
}
