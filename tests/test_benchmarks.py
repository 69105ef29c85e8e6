"""What surrounds the figures of benchmarks/: who gets a time, the guard's arithmetic, the report. Nothing is timed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import checks  # noqa: E402
import comparison  # noqa: E402
import guard  # noqa: E402
import report  # noqa: E402
import timing  # noqa: E402
import works  # noqa: E402
from contenders import BASELINE, CONTENDERS, OURS, UPDATES, Contender, eager, training_scripts  # noqa: E402

WORKS = {
    "double well": lambda: dataclasses.replace(works.double_well("cpu"), n_steps=20),
    "mlp": lambda: works.mlp((2, 16), "silu", 10, "cpu"),
    "convnet": lambda: works.convnet(8, 1, 4, 5, "cpu"),
}


@pytest.fixture(scope="module", params=WORKS)
def work(request):
    return WORKS[request.param]()


@pytest.fixture(scope="module")
def expected(work):
    return checks.Expected.of(work)


def eager_with(work, **changes):
    """The eager loop of another work: other numbers, or another network."""
    return eager.make(dataclasses.replace(work, **changes))


@pytest.mark.parametrize("name", [n for n in CONTENDERS if not n.startswith("torch.compile")])
def test_contenders_run_the_work(work, expected, name):
    contender = CONTENDERS[name]
    why = contender.missing or contender.supports(work)
    if why:
        pytest.skip(why)
    assert checks.disagreement(work, contender.make(work), expected, contender.precision) is None


@pytest.mark.compiled
def test_compiled_steps_run_the_work():
    work = WORKS["double well"]()
    chain = CONTENDERS["torch.compile 10 steps"].make(work)
    assert checks.disagreement(work, chain, checks.Expected.of(work)) is None
    with pytest.raises(ValueError, match="multiple of 10, got 15"):
        chain(work.x0, 15, 0.0)


def test_a_wrong_step_is_refused(work, expected):
    why = checks.disagreement(work, eager_with(work, step_size=1.01 * work.step_size), expected)
    assert "steps without noise" in why and "away from the eager loop's" in why


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_wrong_noise_is_refused(work, expected, factor):
    chain = eager.make(work)
    why = checks.disagreement(work, lambda x0, n, sigma: chain(x0, n, factor * sigma), expected)
    assert "standard errors apart" in why


def test_noise_that_repeats_at_every_step_is_refused(work, expected):
    chain = eager.make(work)

    def repeating(x0, n_steps, noise_std):
        for _ in range(n_steps):
            torch.manual_seed(5)
            x0 = chain(x0, 1, noise_std)
        return x0

    assert "squared noise" in checks.disagreement(work, repeating, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda x: x * torch.nan, "nan away"), (lambda x: x[:1], "the state is"), (lambda x: x + 1, "away from")],
)
def test_a_state_that_is_not_the_eager_loop_s_is_refused(work, expected, change, says):
    chain = eager.make(work)
    assert says in checks.disagreement(work, lambda *a: change(chain(*a)), expected)


def test_who_is_admitted(work):
    def broken(**changes):
        make = lambda work: lambda x0, n, sigma: eager_with(work, **changes)(x0, n, sigma)
        return Contender(types.SimpleNamespace(MISSING=None, supports=lambda work: None, make=make))

    def raising(work):
        raise RuntimeError("first line\nsecond")

    module = types.SimpleNamespace
    contenders = {
        BASELINE: CONTENDERS[BASELINE],
        "not here": Contender(module(MISSING="no such library")),
        "not able": Contender(module(MISSING=None, supports=lambda work: "only for cats")),
        "raising": Contender(module(MISSING=None, supports=lambda work: None, make=raising)),
        "wrong": broken(step_size=2 * work.step_size),
    }
    calls, rows = comparison.admit(work, contenders)
    assert list(calls) == [BASELINE] and calls[BASELINE]().shape == work.x0.shape
    assert [(row["contender"], row["status"]) for row in rows] == [
        ("not here", "missing"),
        ("not able", "unsupported"),
        ("raising", "failed"),
        ("wrong", "failed"),
    ]
    assert rows[0]["reason"] == "no such library" and rows[1]["reason"] == "only for cats"
    assert rows[2]["reason"] == "RuntimeError: first line"
    assert not any("seconds" in row or "ratio" in row for row in rows)


@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_checked(name):
    module = UPDATES[name]
    if module.MISSING or name == "torch.compile":
        pytest.skip(module.MISSING or "compiling is for the benchmark")
    assert checks.update_disagreement(4096, module.make_update(4096, "cpu"), 1e-3, 1e-2) is None
    for step, noise, says in ((1.01, 1.0, "without noise"), (1.0, 1.2, "mean square"), (1.0, 0.0, "mean square")):
        update = module.make_update(4096, "cpu")
        wrong = lambda a, b, update=update, step=step, noise=noise: update(step * a, noise * b)
        assert says in checks.update_disagreement(4096, wrong, 1e-3, 1e-2)


@pytest.mark.compiled
def test_compiled_noise_is_torch_s_own():
    """At every call: inductor's own random numbers, ten times slower on a CPU, would make this peer a straw man."""
    update = UPDATES["torch.compile"].make_update(64, "cpu")
    update(1e-3, 0.0), update(1e-3, 1e-2)
    before = update(0.0, 0.0).clone()
    torch.manual_seed(3)
    after = update(0.0, 1.0).clone()
    torch.manual_seed(3)
    # The state is rounded where the noise is added, and the difference is exact or rounded once more.
    assert ((after - before - torch.randn(64)).abs() <= 2.0**-24 * 2 * (after.abs() + before.abs())).all()


def test_training_iterations_are_checked():
    training = training_scripts.Training.of(works.convnet(8, 1, 4, 5, "cpu"))
    ours = training_scripts.script(training, CONTENDERS[OURS].make(training.work))
    for run in (ours, training_scripts.fl_train(training)):
        assert training_scripts.disagreement(training, run) is None
    opposite = training_scripts.script(training, lambda x0, n, sigma: -x0)
    assert "away from the eager script's" in training_scripts.disagreement(training, opposite)


@pytest.mark.parametrize("image_size", [8, 16])
def test_multiply_adds_are_counted_without_padding(image_size):
    """Weights and images of ones: the sum of a layer's outputs is the number of its products."""
    import fastlangevin as fl

    net = fl.models.ConvNet(image_size, 3, 2)
    size, total = image_size, 0.0
    for layer in [m for m in net.net if isinstance(m, nn.Conv2d)][:-1]:
        x = torch.ones(1, layer.in_channels, size, size)
        y = nn.functional.conv2d(x, torch.ones_like(layer.weight), None, layer.stride, layer.padding)
        total, size = total + y.sum().item(), y.shape[-1]
    assert works.forward_multiply_adds(net) == total


def test_ratios_are_of_paired_rounds():
    seconds = {BASELINE: [2.0, 4.0, 6.0, 8.0], "peer": [1.0, 1.0, 2.0, 2.0], OURS: [0.5, 0.5, 0.5, 0.5]}
    rows = comparison.timed_rows(seconds, lambda name: (0.1, "the floor"))
    assert [row["contender"] for row in rows] == list(seconds)
    assert [row["ratio"] for row in rows] == [1.0, 3.5, 10.0] and rows[1]["ratio_quartiles"] == (3.0, 4.0)
    assert rows[2]["of_floor"] == pytest.approx(0.2) and rows[2]["floor"] == "the floor"
    assert "of_floor" not in rows[0] and "of_floor" not in rows[1]


def test_contenders_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.in_turns(calls, 3)
    assert "".join(order) == "abcabcabc" and {name: len(s) for name, s in seconds.items()} == dict.fromkeys("abc", 3)


def test_the_guard_allows_thirty_percent():
    floors = {"a": 10.0, "b": 2.0}
    assert guard.lost({"a": 7.01, "b": 9.0}, floors) == []
    (complaint,) = guard.lost({"a": 6.99, "b": 2.0}, floors)
    assert complaint == "a: 6.99× the eager loop, 30% below 10.00×"
    assert guard.lost({"b": 2.0}, floors) == ["a: not measured, its floor is 10.00×"]
    assert guard.lost({"a": 10.0, "b": 2.0, "c": 1.0}, floors) == ["c: no floor in floors.json (--update)"]


def test_the_guard_fails_on_a_loss(monkeypatch, capsys, tmp_path):
    floors = tmp_path / "floors.json"
    floors.write_text('{"a": 10.0}')
    monkeypatch.setattr(guard, "FLOORS", floors)
    for ratio, code in ((9.0, 0), (5.0, 1)):
        monkeypatch.setattr(guard, "measure", lambda ratio=ratio: ({"a": ratio}, []))
        assert guard.main([]) == code
    assert "LOST: a: 5.00× the eager loop, 50% below 10.00×" in capsys.readouterr().err
    monkeypatch.setattr(guard, "measure", lambda: ({"a": 20.0}, ["b: failed"]))
    assert guard.main(["--update"]) == 1 and json.loads(floors.read_text()) == {"a": 10.0}
    monkeypatch.setattr(guard, "measure", lambda: ({"a": 20.0}, []))
    assert guard.main(["--update"]) == 0 and json.loads(floors.read_text()) == {"a": 20.0}


def test_the_guard_has_a_floor_for_each_of_its_works():
    assert set(json.loads(guard.FLOORS.read_text())) == set(guard.NAMES) <= set(works.WORKS)


def entry(rows, kind="chain", device="cpu", title="some work, 10,000 chains, K = 5"):
    return {"kind": kind, "title": title, "device": device, "rows": rows}


TIMED = {"status": "timed", "rounds": 9, "seconds": 0.5, "quartiles": [0.4, 0.6], "ratio_quartiles": [1.9, 2.1]}
ROWS = [
    {"contender": BASELINE, **TIMED, "ratio": 1.0},
    {"contender": OURS, **TIMED, "ratio": 2.0, "of_floor": 0.5, "floor": "bytes"},
    {"contender": "quick", **TIMED, "ratio": 3.0},
    {"contender": "odd", "status": "failed", "reason": "a|b"},
    {"contender": "gone", "status": "missing", "reason": "not installed"},
    {"contender": "away", "status": "missing", "reason": "not installed"},
]


def test_the_table_says_everything():
    text = report.markdown([entry(ROWS)], []).splitlines()
    in_table = [line.split(" | ")[1] for line in text if line.startswith("| some work")]
    assert in_table == ["quick", OURS, BASELINE, "odd", "gone, away"]
    for line in (
        "| some work, 10,000 chains, K = 5 | fastlangevin | yes | 2.00× | 1.90, 2.10 | 9 | 50%: bytes |",
        "| some work, 10,000 chains, K = 5 | quick | yes | 3.00× | 1.90, 2.10 | 9 |  |",
        "| some work, 10,000 chains, K = 5 | odd | failed | failed: a\\|b |  |  |  |",
        "| some work, 10,000 chains, K = 5 | gone, away | no | missing: not installed |  |  |  |",
        "- some work, 10,000 chains, K = 5: quick 3.00×; beside fastlangevin 2.00×.",
    ):
        assert line in text, line


def test_times_are_quoted_for_gpus_only():
    assert "500 ms" in report.markdown([entry(ROWS, device="cuda")], [])
    assert " ms" not in report.markdown([entry(ROWS)], [])


def test_a_busy_machine_is_said_to_be_one():
    machine = {"date": "2026-01-02", "revision": "abc", "processor": "P", "cores": 2, "threads": 2, "gpu": None}
    machine |= {"cpu_kernels": "avx2", "versions": {"torch": "2.13"}, "rooflines": {"copy": 2e10}}
    for loads, busy in (((0.5, 2.9), False), ((0.5, 3.1), True)):
        text = report.markdown([entry(ROWS)], [machine | {"loads": loads}])
        assert "- 2026-01-02, revision abc: P, 2 cores, 2 threads, avx2; load 0.5 to" in text
        assert ("Other programs ran meanwhile" in text) == busy


def test_the_plots_show_what_the_table_says():
    figure = report.plot_times([entry(ROWS)])
    (axes,) = figure.axes
    points = {c.get_label(): [(x, round(y)) for x, y in c.get_offsets().tolist()] for c in axes.collections}
    assert points == {BASELINE: [(1.0, 0)], OURS: [(0.5, 0)], "quick": [(pytest.approx(1 / 3), 0)]}
    assert len({y for c in axes.collections for _, y in c.get_offsets().tolist()}) == 3, "none hides another"
    assert axes.get_xscale() == "log" and axes.get_yticklabels()[0].get_text() == "some work, K = 5"
    (axes,) = report.plot_floors([entry(ROWS)]).axes
    assert [bar.get_width() for bar in axes.patches] == [0.5]


def test_the_page_is_what_the_committed_results_say():
    entries, machines = report.load(sorted(report.RESULTS.glob("*.json")))
    assert (report.DOCS / report.NAME).read_text() == report.markdown(entries, machines), "make bench-docs"
    titles = " ".join(e["title"] for e in entries)
    for make in works.WORKS.values():
        assert make().title in titles


def test_committed_results_have_a_row_for_every_contender():
    entries, _ = report.load(sorted(report.RESULTS.glob("*.json")))
    for chain in (e for e in entries if e["kind"] == "chain"):
        assert {row["contender"] for row in chain["rows"]} == set(CONTENDERS)
        assert all(("ratio" in row) == (row["status"] == "timed") for row in chain["rows"])


def test_peak_memory_is_the_process_s_own():
    """Not that of the process which started it."""
    child = "import first_call; print(first_call.peak())"
    start = f"subprocess.check_output([sys.executable, '-c', {child!r}])"
    parent = f"import subprocess, sys; held = b'1' * 300_000_000; print(int({start}))"
    command = [sys.executable, "-c", parent]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True)
    assert 1_000_000 < int(done.stdout) < 200_000_000
