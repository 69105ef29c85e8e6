"""What a call of the sampler costs besides its steps: a chain of one step, minus the loop written out.

    python benchmarks/call_cost.py [--rounds 4000]

The energy is `formula-1`, which runs by autograd. Both alternate in one process, on one thread.
"""

from __future__ import annotations

import argparse
import statistics

import comparison
import torch
from contenders import BASELINE, CONTENDERS, OURS
from timing import in_turns, paired_ratio
from works import NETWORKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    contenders = {name: CONTENDERS[name] for name in (OURS, BASELINE)}
    calls, rows = comparison.admit(NETWORKS["formula-1"](), contenders)
    if rows:
        raise SystemExit("\n".join(map(comparison.text, rows)))
    seconds = in_turns(calls, rounds)
    ours, loop = seconds[OURS], seconds[BASELINE]
    differences = sorted(1e6 * (a - b) for a, b in zip(ours, loop, strict=True))
    quarter = len(differences) // 4
    ratio, (low, high) = paired_ratio(loop, ours)
    print(f"median of the differences {statistics.median(differences):.0f} µs")
    print(f"quartiles                 {differences[quarter]:.0f} … {differences[-1 - quarter]:.0f} µs")
    print(f"between least times       {1e6 * (min(ours) - min(loop)):.0f} µs (the loop's {1e6 * min(loop):.0f})")
    print(f"speed-up over the loop    {ratio:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
