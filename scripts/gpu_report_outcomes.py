"""A plugin of pytest that writes each test's outcome as soon as it is known: `-p gpu_report_outcomes --outcomes=FILE`.

A line of JSON for each, [name, "passed" | "failed" | "skipped"]; of a test with two, such as one that passed and whose
teardown failed, the last line holds. What was written is there when the run is killed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # with pytest-xdist the controller hears of all tests
        config.pluginmanager.register(_Outcomes(config.getoption("--outcomes")))


class _Outcomes:
    def __init__(self, path: Path) -> None:
        path.write_text("")
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            with self._path.open("a") as file:
                file.write(json.dumps([report.nodeid, report.outcome]) + "\n")
