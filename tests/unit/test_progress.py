"""The bar of a run: it moves by every step and keeps what it last had to show."""

from __future__ import annotations

import io

from rich.console import Console as RichConsole

from lbgnas.report.progress import Console


def test_a_step_without_values_moves_the_bar_and_keeps_its_text() -> None:
    report = Console()
    report.console = RichConsole(file=io.StringIO(), force_terminal=True)
    report.begin("evaluate", 4, 1)
    report.step({"loss": 0.5})
    report.step({})
    task = report.bar.tasks[0]
    assert (task.completed, task.fields["values"]) == (3, "loss 0.500")
    report.end()
    assert report.bar is None


def test_elsewhere_the_time_left_stands_in_the_line_of_an_epoch() -> None:
    report = Console()
    report.console = RichConsole(file=(told := io.StringIO()), force_terminal=False)
    report.begin("search", 4, 2)
    report.step({"loss": 0.5})
    report.epoch("epoch 1\n  shares", {})
    report.end()
    first, second, third = told.getvalue().splitlines()
    assert first == "search: 2 of 4 steps to go"
    assert second.startswith("epoch 1 | ")
    assert second.endswith("s left")
    assert third == "  shares"
