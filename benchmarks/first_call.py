"""The cost of the first result of one contender on one work. `bench_first_call.py` starts this process.

    python benchmarks/first_call.py WORK CONTENDER

Prints JSON: the seconds to the first x_K, from before torch's import; the seconds of the second; and the process's peak
memory in bytes, in total and in excess of imports and the tensors of the work. The works are made with classes of the
package: the seconds of its import count for fastlangevin alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

START = time.perf_counter()


def peak() -> int:
    """Peak memory of this process alone: getrusage returns the parent's in a child process if that is larger."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(work_name: str, contender: str) -> None:
    import torch

    start = time.perf_counter()
    import fastlangevin  # noqa: F401

    spared = 0.0 if contender.startswith("fastlangevin") else time.perf_counter() - start
    import works
    from contenders import CONTENDERS

    torch.manual_seed(0)
    work = works.WORKS[work_name]()
    before = peak()
    chain = CONTENDERS[contender].make(work)
    chain(work.x0, work.n_steps, work.noise_std)
    end = time.perf_counter()
    first = end - START - spared
    chain(work.x0, work.n_steps, work.noise_std)
    second = time.perf_counter() - end
    print(json.dumps({"first": first, "second": second, "peak": peak(), "own_peak": peak() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
