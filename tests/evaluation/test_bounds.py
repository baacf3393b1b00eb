"""Bounds against numbers by hand, and evaluation against them: nothing decodes an exact dLLM above its ceiling."""

import math
from itertools import permutations

import pytest
import torch

import unmask
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.evaluation.bounds import (
    Bound,
    best_of,
    bounds_of,
    ceiling,
    correlation,
    decode_in_order,
    read_bounds,
    total_correlation,
    write_bounds,
)
from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.intervals import Interval
from unmask.evaluation.tables import table
from unmask.models.auto import load_model
from unmask.tasks.auto import load_task
from unmask.testing import ExactModel

DRAWN = DecodeConfig(temperature=1.0)


def answers(operation, items=8):
    task = load_task(f"lists:operation={operation},items={items}")
    return task.answers(task.examples("test", 1)[0])


@pytest.mark.parametrize(
    ("operation", "order", "expected"),
    [
        ("copy", [0] * 8, 1.0),
        ("shuffle", list(range(8)), 1.0),
        ("shuffle", [0] * 8, math.factorial(8) / 8**8),
        ("shuffle", [0] * 4 + [1] * 4, (8 * 7 * 6 * 5 / 8**4) * (math.factorial(4) / 4**4)),
        ("shuffle", [0, 0, 1, 1, 2, 2, 3, 3], 7 / 8 * 5 / 6 * 3 / 4 * 1 / 2),
        ("mark", [0] * 8, (7 / 8) ** 7),  # 8 x 1/8 x (7/8)^7
        ("mark", [0] * 7 + [1], (7 / 8) ** 7 + 7 * (1 / 8) * (7 / 8) ** 6),  # none, then the last; or one of the seven
        ("replace", [0] * 8, (7 / 8) ** 7),
        ("pairs", [0] * 8, 1 / 2**4),
    ],
)
def test_ceilings_by_hand(operation, order, expected):
    assert ceiling(answers(operation), order) == pytest.approx(expected, rel=1e-9)


def test_total_correlation_by_hand():
    two = [("a", "b"), ("b", "a")]
    assert total_correlation(two, [0, 1], ("a", "b")) == pytest.approx(0)
    assert total_correlation(two, [0, 0], ("a", "b")) == pytest.approx(math.log(2))  # 2 ln 2 - ln 2
    three = [("a", "a", "a"), ("a", "b", "b"), ("b", "a", "b"), ("b", "b", "a")]  # pairs are independent, all three not
    assert total_correlation(three, [0, 0, 1], ("a", "b", "b")) == pytest.approx(0)
    assert total_correlation(three, [0, 0, 0], ("a", "b", "b")) == pytest.approx(math.log(2))
    assert total_correlation(three, [0, 1, 1], ("c", "b", "b")) == pytest.approx(0), "nothing is left after a mistake"


@pytest.mark.parametrize("order", [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 3, 3]])
def test_what_the_correlation_says_of_shuffle_is_its_ceiling(order):
    """Its answers and its draws are uniform: the bound is met."""
    all_answers = answers("shuffle", items=6)
    cost = total_correlation(all_answers, order, all_answers[17])
    assert math.exp(-cost) == pytest.approx(ceiling(all_answers, order), rel=1e-9)


@pytest.mark.parametrize("operation", ["shuffle", "mark", "replace"])
def test_the_exact_dllm_reaches_the_ceiling_of_an_order_and_no_more(operation):
    task = load_task(f"lists:operation={operation},items=5,letters=8")
    model, examples = ExactModel(task), task.examples("test", 20)
    for order in ([0] * 5, [0, 0, 0, 1, 1], [0, 1, 2, 3, 4]):
        many = decode_in_order(model, task, examples * 40, [order] * 800, DRAWN)
        bound = ceiling(task.answers(examples[0]), order)
        assert many.nfe.tolist() == [max(order) + 1] * 800
        assert many.correct.float().mean().item() == pytest.approx(bound, abs=4 * math.sqrt(bound * (1 - bound) / 800))


@pytest.mark.parametrize(
    "rule", ["confidence_threshold:threshold=0.1", "top_k_confidence:k=2", "random_order:k=3", "factor:factor=1"]
)
def test_no_rule_is_above_the_best_order_of_its_passes(rule):
    task = load_task("lists:operation=shuffle,items=5")
    model, examples = ExactModel(task), task.examples("test", 300)
    bound = {passes: max(each for each in _splits(task, passes)) for passes in range(1, 6)}
    entry, policy = candidate(rule, decoding(5))
    setup = Setup(model, task, examples, decode={"temperature": 1.0})
    rows = evaluate(setup, entry, policy)
    allowed = sum(bound[row["nfe"]] for row in rows) / 300
    right = sum(row["correct"] for row in rows) / 300
    assert right <= allowed + 4 * math.sqrt(allowed * (1 - allowed) / 300 + 1e-9)
    assert right > 0.02


def _splits(task, passes, n=5):
    """The ceilings of all ways to reveal n alike positions in so many passes."""
    listed = task.answers(task.examples("test", 1)[0])
    cuts = torch.combinations(torch.arange(1, n), passes - 1) if passes > 1 else [torch.tensor([], dtype=torch.long)]
    for cut in cuts:
        yield ceiling(listed, [int((cut <= i).sum()) for i in range(n)])


def test_latents_first_is_exact_and_clauses_first_is_not():
    task = load_task("nae-sat:latents=8,clauses=12")
    model, examples = ExactModel(task), task.examples("test", 200)
    known = decode_in_order(model, task, examples, [task.order(one) for one in examples], DRAWN)
    assert known.correct.all()
    assert known.nfe.tolist() == [2] * 200
    backwards = decode_in_order(model, task, examples, [[1] * 8 + [0] * 12] * 200, DRAWN)
    bounds = [ceiling(task.answers(one), [1] * 8 + [0] * 12) for one in examples]
    assert backwards.correct.float().mean().item() == pytest.approx(sum(bounds) / 200, abs=0.1)
    assert sum(bounds) / 200 < 0.4
    costs = [total_correlation(task.answers(one), task.order(one), one.answer.split()) for one in examples]
    assert max(costs) < 1e-6


def test_a_dllm_with_blocks_of_its_own_is_decoded_in_them():
    model, task = unmask.load_model("house-block-causal"), load_task("house")
    examples = task.examples("test", 4)
    begin = [len(model.encode(example.prompt)) for example in examples]
    touched = [(at + 31) // 16 - at // 16 + 1 for at in begin]  # its blocks of 16 are aligned with the prompt
    assert decode_in_order(model, task, examples, [[0] * 32] * 4).nfe.tolist() == touched


@pytest.mark.unchecked
def test_what_does_not_fit_is_refused():
    task = load_task("lists:operation=shuffle,items=4")
    model, examples = ExactModel(task), task.examples("test", 2)
    wide = decode_in_order(model, task, examples, [[0, 10, 20, 30]] * 2, DRAWN)
    assert wide.nfe.tolist() == [4, 4], "passes without a position are none"
    assert wide.correct.all()
    with pytest.raises(UnmaskError, match="Give an order for each of 2 prompts, a pass from 0 for each of 4 positions"):
        decode_in_order(model, task, examples, [[0, 1, 2, 3]])
    with pytest.raises(UnmaskError, match="The best of 0 roll-outs is none: give at least 1"):
        best_of(model, task, examples, 0)
    with pytest.raises(UnmaskError, match="Give answers of as many words as the order has positions, 1"):
        ceiling([], [0])
    with pytest.raises(UnmaskError, match="The task 'house' is no puzzle: nothing lists its answers"):
        ExactModel(load_task("house"))


def test_the_best_of_many_knows_what_one_roll_out_does_not():
    task = load_task("lists:operation=mark,items=4")
    model, examples = ExactModel(task), task.examples("test", 10)
    found = best_of(model, task, examples, 12)
    assert found.correct.shape == found.nfe.shape == (12, 10)
    assert found.within(4) == 1.0
    assert found.within(1) == 0.0, "all at once, nobody is marked"
    assert found.found.min() >= 2
    assert found.correct.float().mean() < 1
    again = best_of(model, task, examples, 12)
    assert torch.equal(found.nfe, again.nfe)


def test_bounds_of_an_exact_dllm():
    task = load_task("lists:operation=copy,items=4")
    known, rolled = bounds_of(ExactModel(task), task, task.examples("test", 5))
    assert (known.name, known.accuracy.mean, known.nfe.mean) == ("known order", 1.0, 1.0)
    assert (rolled.name, rolled.accuracy.mean) == ("best of 64 random roll-outs, first 5 prompts", 1.0)
    assert 1.0 <= rolled.nfe.mean <= 4.0


def test_what_has_no_order_has_no_known_order():
    task = load_task("sudoku")
    names = [bound.name for bound in bounds_of(ExactModel(task), task, task.examples("test", 1))]
    assert names == ["best of 64 random roll-outs, first 1 prompts"]


def test_the_correlation_of_a_roll_out_is_of_whole_puzzles_alone():
    task = load_task("lists:operation=shuffle,items=4")
    example = task.examples("test", 1)[0]
    words = task.answers(example)[5]
    assert correlation(task, example, [0, 0, 0, 0], words) == pytest.approx(4 * math.log(4) - math.log(24))
    assert correlation(task, example, [0, 0, 0, -1], words) is None, "one is masked"
    assert correlation(task, example, [0, 0, 0, 0], [words[0]] * 4) is None, "what went wrong has skipped its cost"
    assert correlation(load_task("house"), load_task("house").examples("test", 1)[0], [0], ["a"]) is None


def test_where_no_roll_out_is_right_there_are_no_passes(monkeypatch):
    task = load_task("lists:operation=copy,items=4")
    monkeypatch.setattr(task, "is_correct", lambda prompt, answer: False)
    known, rolled = bounds_of(ExactModel(task), task, task.examples("test", 2))
    assert (known.accuracy.mean, rolled.accuracy.mean) == (0.0, 0.0)
    assert math.isnan(rolled.nfe.mean)
    shown = table([], "none", [known, rolled]).columns
    assert list(shown[5].cells) == ["1.0", ""]


def test_bounds_are_kept_beside_rows(tmp_path):
    assert read_bounds(tmp_path) == []
    known = Bound("known order", Interval(1.0, 0.9, 1.0), Interval(2.5, 2.0, 3.0))
    none = Bound("best of 64", Interval(0.0, 0.0, 0.1), Interval(math.nan, math.nan, math.nan))
    write_bounds(tmp_path, [known, none])
    first, second = read_bounds(tmp_path)
    assert first == known
    assert (second.name, second.accuracy) == (none.name, none.accuracy)
    assert math.isnan(second.nfe.mean)
    text = (tmp_path / "bounds.json").read_text(encoding="utf-8")
    for broken in ('[{"name": "known order"}]', text.replace('"low": 2.0', '"low": 3.5')):
        (tmp_path / "bounds.json").write_text(broken, encoding="utf-8")
        with pytest.raises(UnmaskError, match=r"bounds\.json is broken: delete it, and --resume makes it again"):
            read_bounds(tmp_path)


@pytest.mark.parametrize(
    ("order", "ways"),
    [([0, 0, 1, 1], 4), ([0, 1, 1, 1], 4), ([0, 0, 0, 0], 4), ([0, 1, 2, 3], 4), ([0, 0, 1, 2, 2], 5)],
)
def test_the_mean_total_correlation_bounds_the_ceiling_from_below(order, ways):
    """Jensen: of all answers of an order; equal where each answer costs the same, as of shuffled items."""
    names = "abcdefgh"[:ways]
    shuffled = list(permutations(names))
    mean = sum(total_correlation(shuffled, order, one) for one in shuffled) / len(shuffled)
    assert math.exp(-mean) == pytest.approx(ceiling(shuffled, order))
    marked = [tuple("*" if i == at else name for i, name in enumerate(names)) for at in range(ways)]
    mean = sum(total_correlation(marked, order, one) for one in marked) / len(marked)
    assert math.exp(-mean) <= ceiling(marked, order) + 1e-12


def test_bounds_of_nothing_are_refused():
    with pytest.raises(UnmaskError, match="as many words as the order has positions, 3"):
        total_correlation(["ab", "ba"], [0, 0, 0], "aba")
    with pytest.raises(UnmaskError, match="as many words as the order has positions, 2"):
        total_correlation(["ab", "b"], [0, 0], "ab")
    with pytest.raises(UnmaskError, match="at least one answer"):
        total_correlation([], [0], "a")
    model, task = load_model("lists"), load_task("lists")
    for call in (lambda: decode_in_order(model, task, [], []), lambda: bounds_of(model, task, [])):
        with pytest.raises(UnmaskError, match="No examples were given"):
            call()
