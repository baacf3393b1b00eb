"""What a person reads of an entry: its settings, its blocks, its numbers."""

import io

import pytest
from rich.console import Console

from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary
from unmask.evaluation.tables import blocks, setting, table


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("confidence_threshold:threshold=0.5", "threshold 0.5"),
        ("entropy_bound:gamma=0.1", "gamma 0.1"),
        ("entropy_bound:gamma=0.1,order=margin", "gamma 0.1, order margin"),
        ("klass:threshold=0.5,kl=0.01", "threshold 0.5, kl 0.01"),
        ("klass:threshold=0.5,kl=0.01,history=3", "threshold 0.5, kl 0.01, history 3"),
        ("house-base-full", "house-base-full at speed 0.00"),
    ],
)
def test_what_is_tuned_is_shown(spec, shown):
    assert setting(candidate(spec, decoding(32))[0]) == shown


def test_kinds_of_blocks():
    shown = [blocks(candidate("factor", decoding(32, n))[0]) for n in (None, 32, 8, "adaptive:default=8")]
    assert shown == ["full", "full", "8", "adaptive"]


def test_a_line_for_each_entry():
    nan = float("nan")
    found = [
        Summary(candidate("factor", decoding(32, 8))[0], Interval(0.5, 0.4, 0.625), Interval(4.25, 4, 5), 9, 1),
        Summary(candidate("house-base-full", decoding(32))[0], Interval(1, nan, nan), Interval(2, nan, nan), 1, 1),
    ]
    to = Console(file=io.StringIO(), width=120)
    to.print(table(found, "a title"))
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in to.file.getvalue().splitlines()]
    assert ["factor", "8", "factor", "1", "50.0", "40.0", "to", "62.5", "4.2"] in lines
    assert ["policy", "full", "house-base-full", "at", "speed", "0.00", "100.0", "2.0"] in lines
