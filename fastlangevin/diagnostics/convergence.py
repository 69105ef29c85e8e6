"""`summary`: effective sample sizes, split R-hat and Monte-Carlo errors of a trace, by ArviZ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..extras import require
from ..samplers.trace import Trace
from ..samplers.trace_arviz import by_chain, from_dict
from ..validation import check_int, dtype_and_shape

if TYPE_CHECKING:
    import pandas

Functions = Mapping[str, Callable[[Tensor], Tensor]]

MAX_R_HAT, MIN_ESS = 1.01, 400  # Vehtari et al. 2021, Section 4
ADVICE = "Run longer, leave out more of the beginning (burn_in), or find what keeps the chains apart"
_MIN_DRAWS = 4  # ArviZ splits each chain, and a half has at least two
_BLOCK_BYTES = 16 * 2**20


def summary(
    trace: Trace, *, functions: Functions | None = None, burn_in: int = 0, max_elements: int | None = 100
) -> pandas.DataFrame:
    """Returns ArviZ's table of a trace, a row for each quantity, and warns if the answer is not to be believed.

    Columns (`arviz.summary`, not rounded): mean, sd, the interval hdi_3% … hdi_97%, the Monte-Carlo standard errors
    mcse_mean and mcse_sd, the effective sample sizes of all chains together ess_bulk and ess_tail, and r_hat, the
    rank-normalised split R-hat (Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and
    localization: an improved R-hat", Bayesian Analysis 16 (2021), arXiv:1903.08008).

    Rows: "energy", if it is known, and the elements of the state, such as "x[0, 3]". Each takes ArviZ some 10 ms, so
    of more than `max_elements` elements that many are taken, evenly spaced in row-major order.

    Args:
        trace: of at least two chains: R-hat compares chains, which should start far apart.
        functions: quantities in place of the elements, by name: functions of (N, *event) states to (N,) numbers, such
            as `{"mean": lambda x: x.mean(dim=1)}`. They are called for many records at a time.
        burn_in: records before this step are left out. The default leaves out none, not even x0.
        max_elements: the number of elements at most. None: all.

    Warns:
        UserWarning: an R-hat above 1.01, an ESS below 400, or an R-hat that is not a number, because there is one chain
            or the quantity never changed.

    Raises:
        ValueError: fewer than 4 records; a function that does not return one number for each state.
        ImportError: ArviZ is not installed; the message says how to.

    Examples:
        >>> energy = fl.energies.Gaussian([0.0, 1.0], [[1.0, 0.0], [0.0, 4.0]])
        >>> x0 = 3 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
        >>> trace = fl.HMC(energy, step_size=0.5, n_leapfrog=4, seed=1).trace(x0, n_steps=1000)
        >>> table = fl.diagnostics.summary(trace, burn_in=100)
        >>> list(table.index)
        ['energy', 'x[0]', 'x[1]']
        >>> bool(abs(table.loc["x[1]", "mean"] - 1) < 5 * table.loc["x[1]", "mcse_mean"])
        True
    """
    first = first_record(trace, burn_in)
    draws = {name: values[first:] for name, values in quantities(trace, functions, max_elements).items()}
    table, doubts = table_of(draws)
    if doubts:
        warnings.warn(f"the chains do not support these numbers: {'; '.join(doubts)}. {ADVICE}", stacklevel=2)
    return table


def table_of(draws: Mapping[str, Tensor]) -> tuple[pandas.DataFrame, list[str]]:
    """The table of (T, B) draws by name, and what speaks against believing it."""
    data = from_dict(posterior={"all": by_chain(torch.stack(list(draws.values()), dim=2))})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)  # of constants
        table = require("arviz", "diagnostics").summary(data, round_to="none").set_axis(list(draws))
    return table, list(_doubts(table))


def _doubts(table: pandas.DataFrame) -> Iterator[str]:
    unknown = table.index[table["r_hat"].isna()]
    if len(unknown):
        why = "it never changed, or there is one chain"
        yield f"R-hat of {_names(unknown)} is not a number ({why})"
    apart = table.index[table["r_hat"] > MAX_R_HAT]
    if len(apart):
        yield f"R-hat is up to {table['r_hat'].max():.3g}, above {MAX_R_HAT}, for {_names(apart)}"
    for column, kind in (("ess_bulk", "bulk"), ("ess_tail", "tail")):
        few = table.index[~(table[column] >= MIN_ESS)]
        if len(few):
            yield f"the {kind} ESS is down to {table[column].min():.3g}, below {MIN_ESS}, for {_names(few)}"


def _names(names: pandas.Index) -> str:
    shown = ", ".join(map(str, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def first_record(trace: Trace, burn_in: int) -> int:
    """The first record from step burn_in on. Raises ValueError if fewer than 4 are left."""
    first = int(torch.searchsorted(trace.steps, check_int("burn_in", burn_in, 0)))
    left = len(trace.steps) - first
    if left < _MIN_DRAWS:
        raise ValueError(f"trace must have at least {_MIN_DRAWS} records from step burn_in={burn_in} on, got {left}")
    return first


def quantities(trace: Trace, functions: Functions | None, max_elements: int | None) -> dict[str, Tensor]:
    """The quantities of `summary` at each record by name, (T, B) in float64 on the CPU."""
    found = {} if trace.energy is None else {"energy": trace.energy[:].detach().cpu().double()}
    if functions is None:
        chosen, names = elements(trace.x.shape[2:], max_elements)
        values = _along(trace, lambda x: x.reshape(len(x), -1)[:, chosen])
        return {**found, **dict(zip(names, values.unbind(dim=2), strict=True))}
    return {**found, **{name: _along(trace, _checked(name, function)) for name, function in functions.items()}}


def elements(event: Sequence[int], most: int | None) -> tuple[Tensor, list[str]]:
    """At most so many places in the flattened event, evenly spaced, and their names, such as "x[0, 3]"."""
    size = math.prod(event)
    n = size if most is None else min(size, check_int("max_elements", most))
    places = (2 * torch.arange(n) + 1) * size // (2 * max(1, n))
    if not event:
        return places, ["x"]
    index = torch.stack(torch.unravel_index(places, tuple(event)), dim=1)
    return places, [f"x{row}" for row in index.tolist()]


def _along(trace: Trace, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function of all states, (T, B, …) in float64 on the CPU, called for a block of records at a time."""
    n_records, n_chains, *event = trace.x.shape
    block = max(1, _BLOCK_BYTES // (4 * max(1, n_chains * math.prod(event))))
    values = []
    for start in range(0, n_records, block):
        x = trace.x[start : start + block]
        value = function(x.flatten(0, 1))
        values.append(value.detach().cpu().double().unflatten(0, (len(x), n_chains)))
    return torch.cat(values)


def _checked(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def checked(x: Tensor) -> Tensor:
        value = function(x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            raise ValueError(
                f"functions[{name!r}] must return ({len(x)},), a number for each of {len(x)} states, got "
                f"{dtype_and_shape(value)}"
            )
        return value

    return checked
