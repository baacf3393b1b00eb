"""Many entries into one folder: what is missing is made, processes share, controls follow."""

from dataclasses import replace

import pytest

from tests.one_speed import HOUSE_FULL
from unmask.errors import UnmaskError
from unmask.evaluation.comparison import Comparison, replay
from unmask.evaluation.entries import Entry, candidate, decoding
from unmask.evaluation.evaluate import Setup
from unmask.policies import FixedSchedule
from unmask.tasks.auto import load_task

TASK = load_task("house")
RANDOM = candidate("random_order:k=4", decoding(8))
TOP = candidate("top_k_confidence:k=8", decoding(8))
SHARED = {"task": "house"}


@pytest.fixture
def setup(tiny):
    return Setup(tiny, TASK, TASK.examples("test", 4))


class Part:
    """One of two processes that run one after the other."""

    size = 2

    def __init__(self, rank):
        self.rank, self.waited = rank, 0

    def wait(self):
        self.waited += 1


def entries(*candidates):
    return [entry for entry, _ in candidates]


def test_what_is_there_is_not_done_again(setup, tmp_path):
    made = []
    comparison = Comparison(setup, tmp_path, SHARED, seeds=2)
    assert comparison.missing([RANDOM, TOP]) == 2 * 4 + 4, "a rule that does not draw has one seed"
    comparison.run([RANDOM], on_progress=lambda rows, label: made.append((rows, label)))
    assert made == [(4, "random")] * 2
    assert comparison.missing([RANDOM, TOP]) == 4
    again = Comparison(setup, tmp_path, SHARED, seeds=2, resume=True)
    again.run([TOP, RANDOM], on_progress=lambda rows, label: made.append((rows, label)))
    assert made[2:] == [(4, "top-k")]
    found = again.finish(entries(TOP, RANDOM))
    assert [entry.label for entry, _ in found.results] == ["top-k", "random"]
    assert [len(rows) for _, rows in found.results] == [4, 8]
    assert found.title == "tiny on house, 4 test prompts, 8 positions"
    assert all(row["config"] == SHARED for _, rows in found.results for row in rows)
    with pytest.raises(UnmaskError, match="holds results: pass --resume"):
        Comparison(setup, tmp_path, SHARED)


def test_processes_share_the_prompts(setup, tmp_path):
    whole = Comparison(setup, tmp_path / "one", SHARED, seeds=2)
    whole.run([RANDOM])
    first, second = (Comparison(setup, tmp_path / "two", SHARED, seeds=2, processes=Part(rank)) for rank in (0, 1))
    assert first.missing([RANDOM]) == second.missing([RANDOM]) == 4
    for comparison in (first, second):
        comparison.run([RANDOM])
    assert second.finish(entries(RANDOM)) is None
    assert first.finish(entries(RANDOM)).results == whole.finish(entries(RANDOM)).results
    assert not list((tmp_path / "two").glob("rows.*.jsonl"))


def test_a_learned_policy_is_replayed(setup, tmp_path):
    learned = candidate(HOUSE_FULL, decoding(8))
    early = candidate(HOUSE_FULL, decoding(8, stop_at_eos=True))
    comparison = Comparison(setup, tmp_path, SHARED, seeds=1)
    comparison.run([learned, early, TOP])
    ((entry, policy),) = comparison.replays([learned, early, TOP])
    assert entry.controls(learned[0])
    assert (entry.kind, entry.label, entry.stochastic) == ("replay", "replay", False)
    assert sum(policy.counts) == 8


def test_the_pace_of_rows_by_hand():
    entry = Entry("policy", None, "policy", {"type": "t", "name": "mine", "weights": "w"}, decoding(4))
    rows = [{"ended": "complete", "reveals": [3, 1], "nfe": 2}, {"ended": "budget", "reveals": [1], "nfe": 1}]
    made, policy = replay(entry, rows)
    assert policy == FixedSchedule((3, 1))
    assert made.of == entry.digest
    assert made.policy == {"type": "fixed_schedule", "counts": (3, 1), "name": "pace of mine"}
    assert replay(entry, rows[1:]) is None


def test_rows_of_another_prompt_are_not_taken_for_its_own(setup, tmp_path):
    Comparison(setup, tmp_path, SHARED).run([TOP])
    others = replace(setup, examples=TASK.examples("test", 5)[1:])
    with pytest.raises(UnmaskError, match=r"was begun with another prompt 0 \('.*', not '.*'\): the data or the rows"):
        Comparison(others, tmp_path, SHARED, resume=True)
    Comparison(setup, tmp_path, SHARED, resume=True)
