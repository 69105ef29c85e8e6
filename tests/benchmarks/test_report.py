"""The page of results."""

from __future__ import annotations

import report
import works
from contenders import BASELINE, CONTENDERS, OURS


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


def test_the_table_is_complete():
    text = report.markdown([entry(ROWS)], []).splitlines()
    in_table = [line.split(" | ")[1] for line in text if line.startswith("| some work")]
    assert in_table == ["quick", OURS, BASELINE, "odd", "gone, away"]
    for line in (
        "| some work, 10,000 chains, K = 5 | fastlangevin | yes | 2.00× | 1.90, 2.10 | 9 | 50%: bytes |",
        "| some work, 10,000 chains, K = 5 | quick | yes | 3.00× | 1.90, 2.10 | 9 |  |",
        "| some work, 10,000 chains, K = 5 | odd | failed | failed: a\\|b |  |  |  |",
        "| some work, 10,000 chains, K = 5 | gone, away | no | missing: not installed |  |  |  |",
        "- some work, 10,000 chains, K = 5: quick 3.00×; compared with fastlangevin 2.00×.",
    ):
        assert line in text, line


def test_networks_have_a_table_of_their_own():
    rows = [
        {"contender": BASELINE, **TIMED, "ratio": 1.0},
        {"contender": OURS, **TIMED, "ratio": 2.0, "of_floor": 0.5, "floor": "bytes"},
        {"contender": "fastlangevin bf16", "status": "failed", "reason": "odd"},
        {"contender": "eager channels_last", **TIMED, "ratio": 3.0},
        {"contender": "eager bf16", "status": "unsupported", "reason": "none"},
        {"contender": "torch.compile", "status": "unsupported", "reason": "hooks"},
        {"contender": "torch.compile of the network", **TIMED, "ratio": 1.5},
    ]
    network = {**entry(rows, kind="network", title="net, K = 4"), "engine": "autograd"}
    text = report.markdown([entry(ROWS), network], [])
    line = "| net, K = 4 | autograd | 2.00× (1.90, 2.10) | no | 3.00× (1.90, 2.10) | no | 1.50× (1.90, 2.10) | 50% |"
    assert line in text.splitlines() and text.count("| net, K = 4 |") == 1
    assert "- net, K = 4: fastlangevin bf16 failed: odd" in text.splitlines()
    assert "- net, K = 4: eager channels_last 3.00×; compared with fastlangevin 2.00×." in text.splitlines()
    assert "Networks of public codes" not in report.markdown([entry(ROWS)], [])


def test_times_are_given_for_gpus_only():
    assert "500 ms" in report.markdown([entry(ROWS, device="cuda")], [])
    assert " ms" not in report.markdown([entry(ROWS)], [])


def test_a_busy_machine_is_reported():
    machine = {"date": "2026-01-02", "revision": "abc", "processor": "P", "cores": 2, "threads": 2, "gpu": None}
    machine |= {
        "cpu_kernels": "avx2",
        "versions": {"torch": "2.13"},
        "rooflines": {"copy": 2e10},
        "omp_wait_policy": None,
    }
    for loads, busy in (((0.5, 2.9), False), ((0.5, 3.1), True)):
        text = report.markdown([entry(ROWS)], [machine | {"loads": loads}])
        assert "- 2026-01-02, revision abc: P, 2 cores, 2 threads, avx2; load 0.5 to" in text
        assert ("Other programs ran meanwhile" in text) == busy
    text = report.markdown([entry(ROWS)], [machine | {"loads": (1, 1), "omp_wait_policy": "PASSIVE"}])
    assert "2 threads, OMP_WAIT_POLICY=PASSIVE, avx2; load" in text


def test_the_plots_agree_with_the_table():
    figure = report.plot_times([entry(ROWS)])
    (axes,) = figure.axes
    points = {c.get_label(): [(x, round(y)) for x, y in c.get_offsets().tolist()] for c in axes.collections}
    assert points == {BASELINE: [(1.0, 0)], OURS: [(0.5, 0)], "quick": [(1 / 3, 0)]}
    assert len({y for c in axes.collections for _, y in c.get_offsets().tolist()}) == 3, "no marker hides another"
    assert axes.get_xscale() == "log" and axes.get_yticklabels()[0].get_text() == "some work, K = 5"
    (axes,) = report.plot_floors([entry(ROWS)]).axes
    assert [bar.get_width() for bar in axes.patches] == [0.5]


def test_the_page_agrees_with_the_committed_results():
    entries, machines = report.load(sorted(report.RESULTS.glob("*.json")))
    assert (report.DOCS / report.NAME).read_text() == report.markdown(entries, machines), "make bench-docs"
    titles = " ".join(e["title"] for e in entries)
    for make in (works.WORKS | works.NETWORKS).values():
        assert make().title in titles


def test_committed_results_have_a_row_for_every_contender():
    entries, _ = report.load(sorted(report.RESULTS.glob("*.json")))
    for chain in (e for e in entries if e["kind"] == "chain"):
        assert {row["contender"] for row in chain["rows"]} == set(CONTENDERS)
        assert all(("ratio" in row) == (row["status"] == "timed") for row in chain["rows"])


def test_samplers_of_the_family_have_a_table_of_their_own():
    rows = [
        {"contender": OURS, **TIMED, "ratio": 20.0, "ours": 1.0},
        {"contender": BASELINE, **TIMED, "ratio": 1.0, "ours": 20.0},
        {"contender": "other", **TIMED, "ratio": 4.0, "ours": 5.02},
        {"contender": "odd", "status": "failed", "reason": "another density"},
        {"contender": "small", "status": "unsupported", "reason": "none"},
    ]
    family = entry(rows, kind="family", title="MALA, well, 9 steps")
    figures = [{"contender": "fl.Langevin", "status": "timed", "overhead": 1.0, "quartiles": [1.0, 1.0]}]
    figures.append({"contender": "fl.MALA", "status": "timed", "overhead": 1.0321, "quartiles": [1.01, 1.05]})
    overhead = entry(figures, kind="overhead", title="net, 20 scores")
    text = report.markdown([entry(ROWS), family, overhead], []).splitlines()
    assert f"| sampler and density | {OURS} | {BASELINE} | other | odd | small |" in text
    assert "| MALA, well, 9 steps | 20.0× (1.90, 2.10) | 20.0× | 5.0× | failed | unsupported |" in text
    assert "- MALA, well, 9 steps: odd failed: another density" in text
    assert "| network | fl.Langevin | fl.MALA |" in text
    assert "| net, 20 scores | 1.000 (1.000, 1.000) | 1.032 (1.010, 1.050) |" in text
    assert "Other samplers" not in "\n".join(report.markdown([entry(ROWS)], []))
    (axes,) = report.plot_times([entry(ROWS), family, overhead]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["some work, K = 5"]
