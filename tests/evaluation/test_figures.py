"""The static plot holds what it should."""

from unmask.evaluation.entries import candidate, decoding, tuned
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.figures import plot
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary, summarise
from unmask.tasks.auto import load_task


def test_plot(tiny, tmp_path):
    task = load_task("house")
    setup = Setup(tiny, task, task.examples("test", 4))
    rules = [one for n in (8, 4) for one in tuned(decoding(8, n), ("confidence_threshold", "random_order"))]
    summaries = [summarise(entry, evaluate(setup, entry, policy)) for entry, policy in rules]
    learned, _ = candidate("house-base-full", decoding(8))
    policy = Summary(learned, Interval(0.9, 0.8, 1.0), Interval(5, 5, 5), 100, 1)
    png, svg = plot([*summaries, policy], tmp_path / "plots" / "plot", "a title")
    assert png.stat().st_size > 10_000
    drawn = svg.read_text()
    assert "learned policy" in drawn
    assert "threshold, EOS suppressed" in drawn
