"""The code of scripts/gpu_report.py around the measurements, which need a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.any_processor

ROOT = Path(__file__).resolve().parents[2]


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look up their module
    spec.loader.exec_module(loaded)
    return loaded


report = module("scripts/gpu_report.py")


def stage(name: str, code: str, limit: float = 30.0) -> report.Stage:
    return report.Stage(name, (sys.executable, "-c", code), limit, report.last_json)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "stages").mkdir()
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_nothing_is_written(tmp_path, capsys):
    assert report.main([str(tmp_path / "out")]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_old_torch_is_rejected(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert "2.11 or newer is needed, got 2.9.1" in report.cannot_run()


def test_a_second_call_runs_only_what_failed(out):
    count = "import pathlib, sys; p = pathlib.Path({!r}); n = len(p.read_text()) if p.exists() else 0; "
    count += "p.write_text('x' * (n + 1)); print('{{\"n\": %d}}' % (n + 1)); sys.exit(n < {})"
    todo = [stage(name, count.format(str(out / name), runs)) for name, runs in (("good", 0), ("bad", 1))]
    first = report.run_stages(todo, out, 60)
    assert {name: record["status"] for name, record in first.items()} == {"good": "ok", "bad": "failed"}
    assert first["bad"]["returncode"] == 1 and first["bad"]["result"] == {"n": 1}
    second = report.run_stages(todo, out, 60)
    assert {name: (r["status"], r["result"]["n"]) for name, r in second.items()} == {
        "good": ("ok", 1),
        "bad": ("ok", 2),
    }
    assert json.loads((out / "stages" / "bad.json").read_text()) == second["bad"]


def test_a_stage_beyond_its_limit_is_killed_with_its_children(out):
    child = "import time; time.sleep(3); open({!r}, 'w')".format(str(out / "survived"))
    code = (
        f"import subprocess, sys, time; print('begun', flush=True); subprocess.Popen([sys.executable, '-c', {child!r}])"
    )
    started = time.monotonic()
    record = report.run_stages([stage("slow", code + "; time.sleep(60)", limit=1.5)], out, 60)["slow"]
    assert record["status"] == "timeout" and record["output_tail"].startswith("begun")
    time.sleep(max(0.0, 4.5 - (time.monotonic() - started)))
    assert not (out / "survived").exists()


def test_the_budget_stops_stages(out, monkeypatch):
    todo = [stage("first", "import time; time.sleep(60)", limit=100), stage("second", "print({})")]
    monkeypatch.setattr(report, "_LEAST_SECONDS", 1.0)
    records = report.run_stages(todo, out, 1.5)
    assert records["first"]["status"] == "timeout" and records["second"]["status"] == "not run"
    assert not (out / "stages" / "second.json").exists()


def test_a_stage_without_a_result_has_failed(out):
    record = report.run_stages([stage("silent", "print('nothing')")], out, 60)["silent"]
    assert record["status"] == "failed" and record["result"] is None and "no line of JSON" in record["unreadable"]


def test_a_stage_imports_this_package_and_is_given_its_time(out):
    code = "import fastlangevin, json, os, sys; "
    code += "print(json.dumps([0])); print(json.dumps({'f': fastlangevin.__file__, 's': sys.argv[1], **os.environ}))"
    told = report.Stage("told", (sys.executable, "-c", code, "{seconds}"), 50, report.last_json)
    found = report.run_stages([told], out, 60)["told"]["result"]
    assert Path(found["f"]).parent.parent == ROOT and found["s"] == "45"
    assert found["FASTLANGEVIN_CACHE"]


TESTS = """
import os, signal, pytest
def test_a(): pass
def test_b(): assert 0
@pytest.mark.skip
def test_c(): pass
@pytest.fixture
def f(): 1 / 0
def test_d(f): pass
@pytest.fixture
def g():
    yield
    1 / 0
def test_e(g): pass
"""


@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_outcomes_are_written_test_by_test(out, more):
    """Those before a kill are there."""
    pid = "os.getppid()" if more else "os.getpid()"
    kill = f"import time\ndef test_f(): time.sleep(1); os.kill({pid}, signal.SIGKILL)"
    (out / "test_some.py").write_text(TESTS + kill)
    outcomes = ("-p", "gpu_report_outcomes", f"--outcomes={out / 'o'}")
    command = (sys.executable, "-m", "pytest", *outcomes, "-c/dev/null", *more, str(out / "test_some.py"))
    record = report.run_stage(report.Stage("tests", command, 60, lambda _: report.read_outcomes(out / "o")), 60, out)
    found = record["result"]
    assert (record["status"], record["returncode"]) == ("failed", -9)
    assert {k: found[k] for k in ("passed", "failed", "skipped")} == {"passed": 1, "failed": 3, "skipped": 1}
    assert [name.split("::")[1] for name in found["failing"]] == ["test_b", "test_d", "test_e"]


def test_the_report_is_written_after_each_stage(out):
    read = f"import json; print(json.dumps({{'seen': open({str(out / 'report.md')!r}).read()}}))"
    seen = report.run_stages([stage("first", "print({})"), stage("second", read)], out, 60)["second"]["result"]["seen"]
    assert "| first | ok |" in seen and "| second |" not in seen


@pytest.mark.parametrize(
    ("build", "setting"),
    [
        ('print(\'{"cuda": "no nvcc"}\')', "0"),
        ("print('{\"cuda\": null}')", None),
        ("import time; time.sleep(60)", "0"),
    ],
    ids=["failed", "built", "killed"],
)
def test_a_library_that_cannot_be_built_is_not_compiled_again_by_each_stage(out, monkeypatch, build, setting):
    monkeypatch.delenv("FASTLANGEVIN_CUDA", raising=False)
    after = "import json, os; print(json.dumps({'cuda': os.environ.get('FASTLANGEVIN_CUDA')}))"
    records = report.run_stages([stage("build", build, limit=1.5), stage("after", after)], out, 60)
    assert records["after"]["result"] == {"cuda": setting}


def test_the_stages_are_those_of_this_repository(tmp_path):
    todo = {s.name: s for s in report.stages(tmp_path)}
    first = ["environment", "build", "test_noise_and_update", "test_cuda_graph", "test_convnet", "figures"]
    assert list(todo)[: len(first)] == first
    assert {p.stem for p in (ROOT / "tests" / "gpu").glob("test_*.py")} <= set(todo)
    assert str(ROOT / "tests" / "gpu" / "test_noise_and_update.py") in todo["test_noise_and_update"].command
    assert Path(todo["figures"].command[1]).is_file()


def test_a_dry_run_walks_every_stage(tmp_path, capsys):
    assert report.main([str(tmp_path), "--dry-run"]) == 0
    records = json.loads((tmp_path / "report.json").read_text())
    assert list(records) == [s.name for s in report.stages(tmp_path)]
    assert {record["status"] for record in records.values()} == {"ok"}
    assert records["test_convnet"]["result"]["skipped"] >= 3
    table = capsys.readouterr().out
    for figure in ("chain-64", "growth", "update-67108864"):
        assert f"\n{figure} " in table
    assert report.main([str(tmp_path), "--dry-run"]) == 0
    assert "figures: already done" in capsys.readouterr().out


def test_the_report_is_complete():
    machine = {"gpu": "GPU 9", "driver": "1.2", "cuda": "13.0", "torch": "2.13", "python": "3.12", "revision": "abc"}
    rows = [
        {"what": "copy", "value": 2500.0, "unit": "GB/s", "quartiles": (2400.0, 2600.0)},
        {"what": "ours", "value": 5.0, "unit": "ms", "ratio": 3.456, "ratio_quartiles": (3.1, 3.9), "ratio_to": "eager"}
        | {"wanted": "3×", "quartiles": (4.5, 5.5)},
        {"what": "other", "failure": "a|b"},
    ]
    tests = {"passed": 7, "failed": 1, "skipped": 2, "failing": ["t::test_x"]}
    records = {
        "environment": {"status": "ok", "command": "env", "seconds": 1, "result": machine},
        "build": {"status": "failed", "command": "make it", "seconds": 2, "result": {"cuda": "no nvcc", "cpu": None}},
        "tests": {"status": "failed", "command": "pytest", "seconds": 3, "result": tests, "output_tail": "boom\nbang"},
        "figures": {"status": "ok", "command": "measure", "seconds": 4, "result": {"some": rows}},
        "more": {"status": "not run", "why": "the budget was spent"},
    }
    text, table = report.markdown(records), report.short_table(records)
    for line in (
        "| tests | failed | 3 | 7 passed, 1 failed, 2 skipped: t::test_x |",
        "| build | failed | 2 | cuda: no nvcc, cpu: ready |",
        "| more | not run |  | the budget was spent |",
        "| copy | 2500 GB/s | 2400–2600 |  |  |  |",
        "| ours | 5 ms | 4.5–5.5 | 3.46 (3.10–3.90) | eager | 3× |",
        "| other | failed: a\\|b | | | | |",
        "    bang",
        "    make it",
        "- gpu: GPU 9",
    ):
        assert line in text.splitlines(), line
    assert table.startswith("GPU 9, driver 1.2, CUDA 13.0, torch 2.13, Python 3.12, revision abc\n")
    assert [line.split()[0] for line in table.splitlines()[1:]] == [*records, "copy", "ours", "other"]
    assert "3.46× eager" in table and "FAILED: a|b" in table


def test_the_report_needs_no_stage():
    records = {"environment": {"status": "timeout", "command": "env", "seconds": 1, "result": None}}
    assert "machine unknown" in report.short_table(records) and "machine unknown" in report.markdown(records)
