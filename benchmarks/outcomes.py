"""A plugin of pytest: the outcomes of a part of `make gpu` (gpu.py), written to its section after each test.

    python -m pytest -p outcomes --section TITLE --results FILE tests/gpu/test_numbers.py

What a test measures with `record_property` becomes a row of a table.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from results import machine, write_section

SLOWEST = 3


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--section", help="the title of the section")
    parser.addoption("--results", type=Path, help="the file of results")


def pytest_configure(config: Any) -> None:
    outcomes = Outcomes(config.getoption("section"), config.getoption("results"))
    config.pluginmanager.register(outcomes, "xtuner-outcomes")


class Outcomes:
    """The outcome of each test that has ended."""

    def __init__(self, title: str, path: Path) -> None:
        self.title, self.path, self.machine = title, path, machine()
        self.count = 0
        self.ended: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.measured: dict[str, list[tuple[str, Any]]] = {}
        self.seconds: Counter[str] = Counter()

    def pytest_collection_finish(self, session: Any) -> None:
        self.count = len(session.items) + len(self.ended)
        self.write()

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.end(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self.end(report)
        if report.when == "teardown":
            if report.user_properties:
                self.measured[report.nodeid] = report.user_properties
            self.write()

    def end(self, report: Any) -> None:
        """Keep the outcome, and the reason of a failure."""
        self.ended[report.nodeid] = report.outcome
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            words = (crash.message if crash else str(report.longrepr)).strip().splitlines() or ["no words"]
            self.reasons[report.nodeid] = words[0 if crash else -1]
        self.write()

    def write(self) -> None:
        write_section(self.title, self.text(), self.path)

    def text(self) -> str:
        """The section in Markdown."""
        counts = Counter(self.ended.values())
        numbers = [f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")]
        numbers.append(f"{self.count - len(self.ended)} not run")
        slow = [f"{cell(test)} {seconds:.0f} s" for test, seconds in self.seconds.most_common(SLOWEST)]
        lines = [f"{', '.join(numbers)}. {self.machine}", "", f"The slowest: {', '.join(slow) or 'none yet'}"]
        if self.reasons:
            lines += ["", "| failed | |", "|---|---|"]
            lines += [f"| {cell(test)} | {cell(reason)} |" for test, reason in self.reasons.items()]
        if self.measured:
            lines += ["", "| measured | |", "|---|---|"]
            for test, found in self.measured.items():
                lines.append(f"| {cell(test)} | {', '.join(f'{name} {value}' for name, value in found)} |")
        return "\n".join(lines)


def cell(text: str) -> str:
    """`text` as a cell of a table, at most 200 characters; tests without their folder."""
    return text.removeprefix("tests/").replace("|", "\\|")[:200]
