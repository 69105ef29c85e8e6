"""The contenders: what a user would run, fastlangevin included. Each is a module that benchmarks import.

A module has `MISSING`, why its requirements cannot be imported, or None; `supports(work, **options)`, why it cannot run
a work, or None; and `make(work, **options)`, a `Chain`. The check and the timing call the same chain with different
arguments, so that what is timed is what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import blackjax_sgld, compiled, eager, ebmkit, jax_chain, ours, posteriors_sgld, torchebm_langevin

if TYPE_CHECKING:
    from works import Work

Chain = Callable[[Tensor, int, float], Tensor]  # (x0, n_steps, noise_std) to x_K
# (step_size, noise_std) to the new state, a tensor or an array that supports DLPack; the next call continues from it.
Update = Callable[[float, float], Any]


@dataclass(frozen=True)
class Contender:
    """A module with its options."""

    module: ModuleType
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        return self.options.get("precision", "fp32")

    @property
    def missing(self) -> str | None:
        return self.module.MISSING

    def supports(self, work: Work) -> str | None:
        return self.module.supports(work, **self.options)

    def make(self, work: Work) -> Chain:
        return self.module.make(work, **self.options)


OURS, BASELINE = "fastlangevin", "eager"
CONTENDERS: dict[str, Contender] = {
    OURS: Contender(ours),
    "fastlangevin bf16": Contender(ours, {"precision": "bf16"}),
    "fastlangevin fp16": Contender(ours, {"precision": "fp16"}),
    "fastlangevin TF32": Contender(ours, {"precision": "tf32"}),
    BASELINE: Contender(eager),
    "eager channels_last": Contender(eager, {"layout": "channels_last"}),
    "eager bf16": Contender(eager, {"precision": "bf16"}),
    "eager bf16 channels_last": Contender(eager, {"precision": "bf16", "layout": "channels_last"}),
    "eager TF32": Contender(eager, {"precision": "tf32"}),
    "torch.compile": Contender(compiled),
    "torch.compile 10 steps": Contender(compiled, {"unroll": 10}),
    "torch.compile bf16": Contender(compiled, {"precision": "bf16"}),
    "torch.compile reduce-overhead": Contender(compiled, {"mode": "reduce-overhead"}),
    "torch.compile in a CUDA graph": Contender(compiled, {"unroll": 10, "graph": True}),
    "JAX scan": Contender(jax_chain, {"form": "scan"}),
    "JAX loop": Contender(jax_chain, {"form": "loop"}),
    "torchebm": Contender(torchebm_langevin),
    "ebmkit": Contender(ebmkit),
    "posteriors": Contender(posteriors_sgld),
    "blackjax": Contender(blackjax_sgld),
}
# The contenders on networks of public codes: the loop itself, and what its user would try first.
NETWORK_CONTENDERS: dict[str, Contender] = {
    name: CONTENDERS[name]
    for name in (OURS, "fastlangevin bf16", BASELINE, "eager channels_last", "eager bf16", "torch.compile")
}
NETWORK_CONTENDERS["torch.compile of the network"] = Contender(compiled, {"whole_step": False})
# The contenders with an update that takes a given score; the libraries have none.
UPDATES: dict[str, ModuleType] = {OURS: ours, BASELINE: eager, "torch.compile": compiled, "JAX": jax_chain}
