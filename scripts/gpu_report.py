"""Builds, tests and measures on the GPU of this machine in a few minutes, and writes a report.

    python scripts/gpu_report.py OUT_DIR [--budget SECONDS] [--dry-run]

Needs an NVIDIA GPU, torch 2.11 or newer and the package's requirements in the Python that runs it; installs nothing
and needs no network. Libraries and Triton's kernels are compiled into OUT_DIR/cache, or $FASTLANGEVIN_CACHE and
$TRITON_CACHE_DIR. The stages that decide most run first. Each writes OUT_DIR/stages/NAME.json when it ends, and then
the report is written anew: report.json, report.md. A second call runs only the stages that are missing or failed. At
the end a short table is printed. Exit code: 0 if all stages succeeded, 1 if a stage failed or was not run, 2 if there
is no usable GPU, in which case nothing is written.

With --dry-run every stage runs a stand-in that needs no GPU and finds no fault.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 520.0
_LEAST_SECONDS = 5.0  # no stage is started with less of the budget left
_TAIL = 4000  # characters of a stage's output that are kept
_PROCESSES = 4  # that run a file's tests, and compile its kernels, at once
_FIRST_TESTS = ("test_noise_and_update", "test_cuda_graph", "test_convnet")  # before the figures


@dataclass(frozen=True)
class Stage:
    """One subprocess.

    Attributes:
        command: its arguments; "{seconds}" is replaced by the time that it may take.
        stand_in: the command of a dry run.
        limit: seconds after which it is killed, or the rest of the budget if that is less.
        result: reads the result of the stage from its standard output; raises an error if there is none.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    result: Callable[[str], Any]
    stand_in: tuple[str, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in total (default %(default).0f)")
    parser.add_argument("--dry-run", action="store_true", help="run stand-ins of the stages, which need no GPU")
    parser.add_argument("--only", choices=tuple(_STAND_INS), help=argparse.SUPPRESS)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        found = (_STAND_INS if options.dry_run else _INSIDE)[options.only](options)
        print(json.dumps(found))
        return int(options.only == "build" and any(found.values()))
    why = None if options.dry_run else cannot_run()
    if why:
        print(f"no report: {why}", file=sys.stderr)
        return 2
    out = options.out_dir.resolve()
    for folder in ("stages", "tests"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for outcomes in (out / "tests").iterdir():
        outcomes.unlink()  # a stage that fails early must not be judged by an older file
    todo = stages(out)
    if options.dry_run:
        todo = [replace(stage, command=stage.stand_in) for stage in todo]
    records = run_stages(todo, out, options.budget)
    write_report(out, records)
    print(short_table(records))
    print(f"\nwritten: {out / 'report.md'}, {out / 'report.json'}")
    return int(any(record["status"] != "ok" for record in records.values()))


def write_report(out: Path, records: dict[str, dict[str, Any]]) -> None:
    write_text(out / "report.json", json.dumps(records, indent=1) + "\n")
    write_text(out / "report.md", markdown(records))


def cannot_run() -> str | None:
    """Why no report can be made here, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error})"
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11):
        return f"torch 2.11 or newer is needed, got {torch.__version__}"
    if not torch.cuda.is_available():
        return f"this machine has no NVIDIA GPU that torch {torch.__version__} can use"
    return None


def stages(out: Path) -> list[Stage]:
    """The stages in order. Each file of tests is one, with its own outcomes: a kill loses the rest of a file only."""
    own = (sys.executable, str(Path(__file__).resolve()), str(out), "--only")
    figures = out / "figures.json"
    measure = (sys.executable, str(ROOT / "benchmarks" / "gpu" / "figures.py"), str(figures), "--budget", "{seconds}")
    return [
        Stage("environment", (*own, "environment"), 60, last_json, (*own, "environment", "--dry-run")),
        Stage("build", (*own, "build"), 200, last_json, (*own, "build", "--dry-run")),
        *(_tests(path, out, own) for path in gpu_tests() if path.stem in _FIRST_TESTS),
        Stage("figures", measure, 260, lambda _: json.loads(figures.read_text()), (*measure, "--dry-run")),
        *(_tests(path, out, own) for path in gpu_tests() if path.stem not in _FIRST_TESTS),
    ]


def gpu_tests() -> list[Path]:
    """The files of tests that need a GPU, those of `_FIRST_TESTS` in that order."""
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in p.read_text()]
    order = {name: i for i, name in enumerate(_FIRST_TESTS)}
    return sorted(files, key=lambda p: (order.get(p.stem, len(order)), p))


def _tests(path: Path, out: Path, own: tuple[str, ...]) -> Stage:
    outcomes = out / "tests" / f"{path.stem}.jsonl"
    in_parallel = ("-n", str(_PROCESSES)) if importlib.util.find_spec("xdist") else ()
    pytest = (sys.executable, "-m", "pytest", "-m", "gpu", "-p", "gpu_report_outcomes", f"--outcomes={outcomes}")
    stand_in = (*own, "tests", "--of", str(path), "--dry-run")
    command = (*pytest, *in_parallel, "-p", "no:cacheprovider", str(path))
    return Stage(path.stem, command, 120, lambda _: read_outcomes(outcomes), stand_in)


def run_stages(todo: list[Stage], out: Path, budget: float) -> dict[str, dict[str, Any]]:
    """The record of every stage: that of an earlier call if it succeeded, else a new one. The report is written after
    each.
    """
    deadline = time.monotonic() + budget
    records = {}
    for stage in todo:
        path = out / "stages" / f"{stage.name}.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            kept = json.loads(path.read_text())
            if kept["status"] == "ok":
                print(f"{stage.name}: already done", flush=True)
                records[stage.name] = kept
                continue
        left = deadline - time.monotonic()
        if left < _LEAST_SECONDS:
            records[stage.name] = {"status": "not run", "why": f"the budget of {budget:.0f} s was spent"}
            continue
        print(f"{stage.name} …", flush=True)
        records[stage.name] = record = run_stage(stage, min(stage.limit, left), out, _settings(records))
        write_text(path, json.dumps(record, indent=1) + "\n")
        write_report(out, records)
        print(f"{stage.name}: {record['status']}, {record['seconds']} s", flush=True)
    return records


def _settings(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Environment variables of the next stage: a CUDA library that could not be built is not compiled again by each."""
    build = records.get("build")
    failed = build is not None and (not build.get("result") or build["result"].get("cuda"))
    return {"FASTLANGEVIN_CUDA": "0"} if failed else {}


def run_stage(stage: Stage, limit: float, out: Path, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a stage, with `settings` in its environment. A stage that takes longer than `limit` seconds is killed with
    all its children.
    """
    command = [part.format(seconds=f"{0.9 * limit:.0f}") if "{seconds}" in part else part for part in stage.command]
    path = (str(ROOT), str(ROOT / "scripts"), os.getenv("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **(settings or {})}
    environment.setdefault("FASTLANGEVIN_CACHE", str(out / "cache"))
    environment.setdefault("TRITON_CACHE_DIR", str(out / "cache" / "triton"))
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        status = "ok" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = "timeout"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    record = {
        "status": status,
        "command": shlex.join(command),
        "returncode": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "limit": round(limit, 1),
        "output_tail": output[-_TAIL:],
    }
    try:
        record["result"] = stage.result(output)
    except (OSError, ValueError) as error:
        record |= {"result": None, "unreadable": str(error)}
        record["status"] = "failed" if status == "ok" else status
    return record


def last_json(output: str) -> Any:
    """The last line that is a JSON object."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("the output has no line of JSON")


def read_outcomes(path: Path) -> dict[str, Any]:
    """The number of tests of each outcome, and the names of the failed tests, from `gpu_report_outcomes`."""
    found = dict(map(json.loads, path.read_text().splitlines()))
    counts = {kind: sum(outcome == kind for outcome in found.values()) for kind in ("passed", "failed", "skipped")}
    return {**counts, "failing": [name for name, outcome in found.items() if outcome == "failed"]}


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """The environment on which the figures depend."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvcc": _first_line("nvcc", "--version", last=True),
        "packages": {name: _version(name) for name in ("triton", "pytest", "numpy", "ninja")},
        "revision": _first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "platform": platform.platform(),
        "processor_cores": os.cpu_count(),
    }


def build(options: argparse.Namespace) -> dict[str, str | None]:
    """Every backend by name, with the reason why it is not available, or None. Compiles missing libraries."""
    from fastlangevin import kernels

    found = {name: backend.unsupported() for name, backend in kernels.BACKENDS.items()}
    return {**dict.fromkeys(("cpu", "cuda", "triton"), "no such backend"), **found}


def list_tests(options: argparse.Namespace) -> dict[str, str]:
    """Writes an outcome for each test function of a file, as if it had been skipped."""
    functions = (node.name for node in ast.parse(options.of.read_text()).body if isinstance(node, ast.FunctionDef))
    outcomes = {name: "skipped" for name in functions if name.startswith("test_")}
    lines = [json.dumps([name, outcome]) + "\n" for name, outcome in outcomes.items()]
    write_text(options.out_dir / "tests" / f"{options.of.stem}.jsonl", "".join(lines))
    return outcomes


_Inside = Callable[[argparse.Namespace], dict[str, Any]]
_INSIDE: dict[str, _Inside] = {"environment": environment, "build": build}
_MACHINE = ("gpu", "driver", "cuda", "torch", "python", "revision")
_STAND_INS: dict[str, _Inside] = {
    "environment": lambda options: dict.fromkeys(_MACHINE, "a stand-in"),
    "build": lambda options: dict.fromkeys(("cpu", "cuda", "triton"), None),
    "tests": list_tests,
}


def _first_line(*command: str, last: bool = False) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[-1 if last else 0] if done.returncode == 0 and lines else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def short_table(records: dict[str, dict[str, Any]]) -> str:
    """The outcome of every stage and every figure, one line each."""
    lines = [_machine(records)]
    for name, record in records.items():
        lines.append(f"{name:22} {record['status']:8} {_summary(name, record)}".rstrip())
    return "\n".join([*lines, *(text for rows in _figures(records).values() for text in map(_line, rows))])


def markdown(records: dict[str, dict[str, Any]]) -> str:
    """The same as a document, with the commands and, for failed stages, the end of the output."""
    lines = ["# GPU report", "", _machine(records), "", "## Stages", ""]
    lines += ["| stage | outcome | seconds | |", "|---|---|---|---|"]
    for name, record in records.items():
        summary = _cell(_summary(name, record))
        lines.append(f"| {name} | {record['status']} | {record.get('seconds', '')} | {summary} |")
    lines += ["", "## Figures", "", "Medians over interleaved rounds, with quartiles; ratios are of paired rounds.", ""]
    lines += ["| figure | median | quartiles | ratio | of | wanted |", "|---|---|---|---|---|---|"]
    for rows in _figures(records).values():
        lines += map(_table_row, rows)
    for name, record in records.items():
        if "command" in record:
            lines += ["", f"## {name}", "", f"    {record['command']}"]
        if record["status"] != "ok" and record.get("output_tail"):
            lines += ["", *(f"    {line}" for line in record["output_tail"].splitlines()[-40:])]
    machine = (records.get("environment") or {}).get("result") or {}
    lines += ["", "## Machine", "", *(f"- {key}: {value}" for key, value in machine.items())]
    return "\n".join(lines) + "\n"


def _machine(records: dict[str, dict[str, Any]]) -> str:
    found = (records.get("environment") or {}).get("result")
    if not found:
        return "machine unknown: the environment stage did not succeed"
    return "{gpu}, driver {driver}, CUDA {cuda}, torch {torch}, Python {python}, revision {revision}".format(**found)


def _summary(name: str, record: dict[str, Any]) -> str:
    result = record.get("result")
    if not result:
        return record.get("why") or record.get("unreadable") or ""
    if name == "build":
        return ", ".join(f"{backend}: {why or 'ready'}" for backend, why in result.items())
    if "failing" in result:
        failing = f": {', '.join(result['failing'])}" if result["failing"] else ""
        return f"{result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped{failing}"
    if name == "figures":
        n_failed = sum(bool(row.get("failure")) for rows in result.values() for row in rows)
        return f"{len(result)} figures, {n_failed} contenders failed"
    return ""


def _figures(records: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return (records.get("figures") or {}).get("result") or {}


def _line(row: dict[str, Any]) -> str:
    if row.get("failure"):
        return f"{row['what']:44} FAILED: {row['failure'][:100]}"
    ratio = f"{row['ratio']:.2f}× {row['ratio_to']}" if "ratio" in row else ""
    wanted = f"(wanted: {row['wanted']})" if "wanted" in row else ""
    return f"{row['what']:44} {row['value']:10.4g} {row['unit']:6} {ratio:20} {wanted}".rstrip()


def _table_row(row: dict[str, Any]) -> str:
    if row.get("failure"):
        return f"| {row['what']} | failed: {_cell(row['failure'])} | | | | |"
    quartiles = "{:.4g}–{:.4g}".format(*row["quartiles"]) if "quartiles" in row else ""
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    if "ratio_quartiles" in row:
        ratio += " ({:.2f}–{:.2f})".format(*row["ratio_quartiles"])
    of, wanted = row.get("ratio_to", ""), row.get("wanted", "")
    return f"| {row['what']} | {row['value']:.4g} {row['unit']} | {quartiles} | {ratio} | {of} | {wanted} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write_text(path: Path, text: str) -> None:
    """Writes atomically: after a kill there is either the old file or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
