"""How wheels are built for release: pyproject's table for cibuildwheel, and the workflow that runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml, with Python 3.11 or later")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TABLE = PROJECT["tool"]["cibuildwheel"]
LINUX = TABLE["linux"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text())

pytestmark = pytest.mark.any_processor


def runs(job: str) -> str:
    return "\n".join(step.get("run", "") for step in WORKFLOW["jobs"][job]["steps"])


@pytest.mark.parametrize("command", ["before-build", "before-test", "test-command", "repair-wheel-command"])
def test_commands_name_files_of_the_project(command):
    text = {**TABLE, **LINUX}[command]
    named = re.findall(r"\{project\}/([\w./-]+)", text)
    assert named and all((ROOT / path).is_file() for path in named), text
    known = {"project", "wheel", "dest_dir"} if command == "repair-wheel-command" else {"project"}
    assert set(re.findall(r"\{(\w+)\}", text)) <= known, text


def test_tools_of_the_build_are_those_of_the_release():
    """`build` itself is in manylinux images."""
    words = set(TABLE["before-build"].split())
    assert words >= {*PROJECT["project"]["optional-dependencies"]["release"]} - {"build"}
    assert words >= {"setuptools", "torch", "numpy", "ninja"}
    assert TABLE["environment"]["FASTLANGEVIN_CUDA"] == "0"


def test_the_repair_leaves_the_audited_wheel_alone_in_its_folder(tmp_path):
    """With an auditor that renames the wheel as scripts/audit_wheel.py does."""
    project, wheel, out = tmp_path / "project", tmp_path / "a-1-py3-none-linux_x.whl", tmp_path / "out"
    (project / "scripts").mkdir(parents=True)
    (project / "scripts" / "audit_wheel.py").write_text(
        "import sys; from pathlib import Path\n"
        "(p,) = map(Path, sys.argv[1:])\n"
        "p.rename(p.with_name(p.name.replace('linux', 'manylinux')))\n"
    )
    wheel.touch()
    out.mkdir()
    command = LINUX["repair-wheel-command"]
    for name, value in {"project": project, "wheel": wheel, "dest_dir": out}.items():
        command = command.replace(f"{{{name}}}", str(value))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], check=True, env={**os.environ, "PATH": path})
    assert [p.name for p in out.iterdir()] == ["a-1-py3-none-manylinux_x.whl"]


def test_the_workflow_builds_what_it_then_runs_and_publishes():
    build, run, publish = (WORKFLOW["jobs"][name] for name in ("build", "run", "publish"))
    machines = {entry["machine"]: entry["runner"] for entry in build["strategy"]["matrix"]["include"]}
    assert machines == {"x86_64": "ubuntu-24.04", "aarch64": "ubuntu-24.04-arm"}
    assert machines == {entry["machine"]: entry["runner"] for entry in run["strategy"]["matrix"]["include"]}
    supported = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(run["strategy"]["matrix"]["python"]) == supported
    assert (run["needs"], publish["needs"]) == ("build", "run")
    folders = re.findall(r"--output-dir (\w+)|--outdir (\w+)", runs("build"))
    assert {a or b for a, b in folders} == {"dist"}
    assert "scripts/test_wheel python dist/*.whl" in runs("run")
    (index,) = LINUX["environment-pass"]
    assert any(index in step.get("env", {}) for step in build["steps"] if "cibuildwheel" in step.get("run", ""))


def test_tools_are_the_pinned_ones():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    used = dict(re.findall(r"pipx run ([\w-]+)==([\w.]+)", runs("build")))
    assert used == {name: pins[name] for name in ("cibuildwheel", "build")}


@pytest.mark.skipif(find_spec("cibuildwheel") is None, reason="cibuildwheel, of the extra dev, is not installed")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_cibuildwheel_builds_one_wheel_per_processor(machine):
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", "linux"]
    done = subprocess.run([*command, "--archs", machine], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, [f"cp311-manylinux_{machine}"]), done.stderr
