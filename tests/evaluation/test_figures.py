"""The static plot holds what it should."""

from dataclasses import replace

from tests.one_speed import HOUSE_FULL
from unmask.evaluation.entries import candidate, decoding, tuned
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.figures import curve, plot
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary, summarise
from unmask.tasks.auto import load_task


def test_plot(tiny, tmp_path):
    task = load_task("house")
    setup = Setup(tiny, task, task.examples("test", 4))
    rules = [one for n in (8, 4) for one in tuned(decoding(8, n), ("confidence_threshold", "random_order"))]
    summaries = [summarise(entry, evaluate(setup, entry, policy)) for entry, policy in rules]
    learned, _ = candidate(HOUSE_FULL, decoding(8))
    policy = Summary(learned, Interval(0.9, 0.8, 1.0), Interval(5, 5, 5), 100, 1)
    png, svg = plot([*summaries, policy], tmp_path / "plots" / "plot", "a title")
    assert png.stat().st_size > 10_000
    drawn = svg.read_text()
    assert "learned policy" in drawn
    assert "threshold, EOS suppressed" in drawn


def test_a_curve_over_the_rules(tmp_path):
    def at(speed, accuracy, nfe):
        entry, _ = candidate(HOUSE_FULL, decoding(8))
        entry = replace(entry, decode=entry.decode.model_copy(update={"speed": speed}))
        return Summary(entry, Interval(accuracy, accuracy - 0.1, accuracy), Interval(nfe, nfe, nfe), 100, 1)

    rules = [
        Summary(entry, Interval(accuracy, accuracy, accuracy), Interval(nfe, nfe, nfe), 100, 1)
        for (entry, _), accuracy, nfe in zip(tuned(decoding(8)), (0.2, 0.9), (2.0, 8.0), strict=False)
    ]
    own = [at(0.0, 0.95, 5.0), at(1.0, 0.6, 2.5)]
    png, svg = curve([*own, *rules], tmp_path / "curve", "a title")
    assert png.stat().st_size > 10_000
    drawn = svg.read_text()
    for words in ("one policy at every speed", "best mixture of two rules", "speed 0", "speed 1", "a title"):
        assert words in drawn
    assert curve(own, tmp_path / "alone", "no rules")[0].exists()
