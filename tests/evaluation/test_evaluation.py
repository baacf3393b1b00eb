"""Rows, summaries, intervals, frontiers, and a plot that holds what it should."""

import json

import pytest
import torch
from unmask.evaluation.cells import Cell, Region, tuned

from unmask.evaluation.evaluate import evaluate, write_rows
from unmask.evaluation.figures import plot
from unmask.evaluation.intervals import Interval, bootstrap
from unmask.evaluation.summaries import Summary, best, frontier, summarise
from unmask.policies import RandomOrder
from unmask.tasks.auto import load_task


def point(accuracy, nfe, label="threshold", block_length=8):
    cell = Cell(label, {"type": "confidence_threshold", "threshold": 0.9}, block_length, 32)
    return Summary(cell, Interval(accuracy, accuracy - 0.1, accuracy + 0.1), Interval(nfe, nfe, nfe), 100, 1)


def test_frontier_and_best():
    points = [point(0.5, 4), point(0.4, 6), point(0.9, 10), point(0.9, 12), point(0.7, 8), point(0.3, 4)]
    assert [(p.accuracy.mean, p.nfe.mean) for p in frontier(points)] == [(0.5, 4), (0.7, 8), (0.9, 10)]
    assert best(points).nfe.mean == 10


def test_bootstrap_covers_the_truth():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for i in range(200):
        sample = (torch.rand(120, generator=generator) < 0.3).float()
        interval = bootstrap(sample[None], seed=i)
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 199


def test_summary_averages_seeds_of_a_prompt_first():
    cell = point(0, 1).cell
    rows = [
        {"prompt": p, "seed": s, "correct": correct, "nfe": nfe}
        for p, s, correct, nfe in [("a", 0, True, 4), ("b", 0, False, 8), ("a", 1, True, 6), ("b", 1, True, 10)]
    ]
    summary = summarise(cell, rows)
    assert summary.accuracy.mean == pytest.approx(0.75)
    assert summary.nfe.mean == pytest.approx(7)
    assert (summary.prompts, summary.seeds) == (2, 2)


def test_where_all_prompts_agree_the_interval_is_exact():
    cell = point(0, 1).cell
    for correct in (True, False):
        rows = [{"prompt": str(p), "seed": s, "correct": correct, "nfe": 4} for s in (0, 1) for p in range(100)]
        accuracy = summarise(cell, rows).accuracy
        # 0.025 ** (1 / 100) = 0.9638: with that share right, all of 100 are in 2.5% of samples.
        assert (accuracy.low, accuracy.high) == pytest.approx((0.9638, 1) if correct else (0, 0.0362), abs=1e-4)


def test_one_prompt_has_no_interval():
    summary = summarise(point(0, 1).cell, [{"prompt": "a", "seed": 0, "correct": True, "nfe": 4}])
    assert summary.accuracy.mean == 1
    assert summary.accuracy.low != summary.accuracy.low, "NaN"


def test_rows_carry_their_configuration(tiny, tmp_path):
    task = load_task("house")
    cell = Cell("random", {"type": "random_order", "k": 2}, 8, 8, draws=True)
    rows = evaluate(tiny, RandomOrder(2), task, task.examples("test", 3), cell, seeds=(0, 1))
    assert len(rows) == 6
    assert {row["nfe"] for row in rows} == {4}
    write_rows(tmp_path / "rows.jsonl", rows)
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert first["policy"] == {"type": "random_order", "k": 2}
    assert {"model", "task", "split", "seed", "versions", "block_length", "gen_length", "text"} <= first.keys()


def test_the_grid_has_eos_suppression_in_full_diffusion_only():
    full, semi = ([cell for cell, _ in tuned(Region(32, length))] for length in (32, 2))
    assert any(cell.suppress_eos for cell in full)
    assert not any(cell.suppress_eos for cell in semi)
    assert {cell.policy["k"] for cell in semi if cell.label == "top-k"} == {1, 2}
    thresholds = {cell.policy["threshold"] for cell in full if cell.label == "threshold"}
    assert min(thresholds) == 0.3
    assert max(thresholds) == 0.99


def test_plot(tiny, tmp_path):
    task = load_task("house")
    contestants = [
        one for length in (8, 4) for one in tuned(Region(8, length), ("confidence_threshold", "random_order"))
    ]
    examples = task.examples("test", 4)
    summaries = [summarise(cell, evaluate(tiny, policy, task, examples, cell)) for cell, policy in contestants]
    png, svg = plot([*summaries, point(0.9, 5, "policy", 32)], tmp_path / "plots" / "plot", "a title")
    assert png.stat().st_size > 10_000
    drawn = svg.read_text()
    assert "learned policy" in drawn
    assert "threshold, EOS suppressed" in drawn
