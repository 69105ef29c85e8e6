"""Kills a training at random instants, resumes it, and compares it with one that was never interrupted.

    python scripts/kill_campaign.py [--times 50] [--seed 0] [--ranks 1] [--out FOLDER]

A training of the digits is ended by SIGKILL and resumed, as many times as asked: four times of five within a second of
its first iteration, else while the process starts. After each kill the newest checkpoint must load. The last process
runs for some iterations more, and an uninterrupted training for as many in all. Their last checkpoints (weights, Adam's
state, random state, counters), metrics and pictures must be equal bit for bit. Exit code: 0 if they are, 1 if not.

With several ranks one of them, drawn at random, is killed, and the others must end by themselves within 60 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import fastlangevin as fl
from fastlangevin.runs import checkpoint

# lr_decay 0, because the number of iterations is not known in advance.
OPTIONS = ["--features", "4", "--batch-size", "8", "--lr-decay", "0", "--steps", "5", "--noise-std", "0.01"]
OPTIONS += ["--sample-steps", "5", "--checkpoint-every", "5"]
WINDOW = 1.0  # seconds after the first line of output, in which a process is killed
MORE = 20  # iterations of the last process
LIMIT = 60.0  # seconds within which the other ranks must end


def start(out: Path, n_iterations: int, ranks: int) -> list[subprocess.Popen[str]]:
    """A process for each rank."""
    command = [sys.executable, "-m", "fastlangevin", "train", "digits", *OPTIONS]
    command += ["--iterations", str(n_iterations), "--out", str(out), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # results depend on the number of threads
    if ranks > 1:
        command += ["--timeout", str(LIMIT / 2)]  # for a rank that is killed before the others know it
        environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})},
        )
        for rank in range(ranks)
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def train(out: Path, n_iterations: int, ranks: int) -> None:
    """Trains to the end. Raises RuntimeError if a process fails."""
    processes = start(out, n_iterations, ranks)
    texts = [process.communicate()[0] for process in processes]
    if codes := [process.returncode for process in processes if process.returncode]:
        raise RuntimeError(f"the training in {out} ended with code {codes[0]}:\n{''.join(texts)}")


def kill(out: Path, chance: random.Random, startups: list[float], ranks: int) -> float:
    """Starts a training and kills it, or one of its ranks. Returns the seconds after which the others had ended.

    Args:
        startups: the seconds from start to first line of output, of the trainings that came so far; appended to.
    """
    begun = time.monotonic()
    processes = start(out, 10**9, ranks)
    if startups and chance.random() < 0.2:
        time.sleep(chance.uniform(0, statistics.median(startups)))
    else:
        speaker = processes[0].stdout
        assert speaker is not None
        speaker.readline()
        startups.append(time.monotonic() - begun)
        time.sleep(chance.uniform(0, WINDOW))
    victim = chance.randrange(ranks)
    processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    for rank, process in enumerate(processes):
        try:
            text = process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise RuntimeError(f"rank {rank} did not end within {LIMIT:g} s of the kill of rank {victim}") from None
        if process.returncode != (-signal.SIGKILL if rank == victim else 1):
            raise RuntimeError(f"rank {rank} of {out} ended by itself, with code {process.returncode}:\n{text}")
    return time.monotonic() - killed


def last_iteration(out: Path) -> int:
    newest = checkpoint.newest(out / "checkpoints")
    if newest is None:
        return 0
    fl.load(out)  # raises if it is damaged
    return int(newest.stem)


def left_behind(out: Path) -> int:
    """The number of temporary files: of writes that the kill interrupted."""
    return sum(".part" in path.name for path in out.rglob(".*"))


def differences(a: Path, b: Path) -> list[str]:
    """The names of what differs between the results of two runs."""
    (tensors, meta), (others, other_meta) = (checkpoint.load(_newest(run)) for run in (a, b))
    found = [
        name
        for name in sorted(tensors.keys() | others.keys())
        if name not in tensors or name not in others or not torch.equal(tensors[name], others[name])
    ]
    found += [name for name in sorted(meta.keys() | other_meta.keys()) if meta.get(name) != other_meta.get(name)]
    if _rows(a) != _rows(b):
        found.append("metrics.jsonl")
    if (a / "samples.png").read_bytes() != (b / "samples.png").read_bytes():
        found.append("samples.png")
    return found


def _newest(run: Path) -> Path:
    newest = checkpoint.newest(run / "checkpoints")
    if newest is None:
        raise RuntimeError(f"{run} holds no checkpoint")
    return newest


def _rows(run: Path) -> list[dict[str, float]]:
    """The metrics of a run without their times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=50, help="number of kills (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default 0)")
    parser.add_argument("--ranks", type=int, default=1, help="number of ranks (default 1)")
    parser.add_argument("--out", type=Path, help="folder for the two runs, which must not exist (default: temporary)")
    arguments = parser.parse_args()
    chance, startups, interrupted, longest = random.Random(arguments.seed), [], 0, 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary) / "campaign"
        killed, whole = folder / "killed", folder / "whole"
        folder.mkdir(parents=True)
        for i in range(arguments.times):
            longest = max(longest, kill(killed, chance, startups, arguments.ranks))
            n_left = left_behind(killed)
            interrupted += n_left > 0
            print(
                f"kill {i + 1} of {arguments.times}: the newest checkpoint is of iteration {last_iteration(killed)}"
                + (f"; {n_left} files half written" if n_left else ""),
                flush=True,
            )
        n_iterations = last_iteration(killed) + MORE
        train(killed, n_iterations, arguments.ranks)
        train(whole, n_iterations, arguments.ranks)
        found = differences(killed, whole)
        print(
            f"{arguments.times} kills, {interrupted} of them in the middle of a write; {n_iterations} iterations; "
            + (f"the other ranks ended within {longest:.1f} s; " if arguments.ranks > 1 else "")
            + f"{'NOT equal: ' + ', '.join(found) if found else 'equal bit for bit to an uninterrupted training'}"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
