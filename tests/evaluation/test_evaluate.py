"""One entry on one task: a row per prompt and seed, with everything that made it."""

import json

import pytest

from unmask.decoding.session import Totals
from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.rows import TRAJECTORY, ResultRow
from unmask.policies import Policy, RandomOrder
from unmask.tasks.auto import load_task

TASK = load_task("house")
EXAMPLES = TASK.examples("test", 5)
RANDOM = candidate("random_order:k=2", decoding(8))


@pytest.fixture
def setup(tiny):
    return Setup(tiny, TASK, EXAMPLES, batch_size=2, context={"config": {"mine": 1}})


def test_rows_carry_their_configuration(setup):
    rows = evaluate(setup, *RANDOM, seeds=(0, 1))
    assert [(row["seed"], row["index"]) for row in rows] == [(s, i) for s in (0, 1) for i in range(5)]
    assert {row["nfe"] for row in rows} == {4}
    first = json.loads(json.dumps(rows[0]))
    assert first["policy"] == {"type": "random_order", "k": 2}
    assert (first["kind"], first["label"], first["block_length"], first["stochastic"]) == ("rule", "random", 8, True)
    assert first["config"] == {"mine": 1}
    assert first["reveals"] == [2] * 4
    for row in rows:
        assert row.keys() == set(ResultRow.__annotations__) - {"correlation", "gold", "trajectory"}


def test_rows_that_are_done_are_left_out_and_the_others_draw_the_same(setup):
    whole = evaluate(setup, *RANDOM, seeds=(0, 1))
    handed = []
    some = evaluate(
        setup, *RANDOM, seeds=(0, 1), done={(0, 0), (0, 3), *((1, i) for i in range(5))}, on_rows=handed.append
    )
    assert some == [whole[i] for i in (1, 2, 4)]
    assert sorted((row for rows in handed for row in rows), key=lambda row: row["index"]) == some


def test_a_stop_hands_over_what_is_done(setup):
    handed, steps = [], iter([False] * 6 + [True])
    with pytest.raises(KeyboardInterrupt):
        evaluate(setup, *RANDOM, on_rows=handed.append, stop=lambda: next(steps))
    assert sum(map(len, handed)) == 2, "of five prompts, two at once, four steps each"


def test_trajectories_of_the_first_prompts_under_the_first_seed(tiny):
    setup = Setup(tiny, TASK, EXAMPLES, trajectories=2)
    rows = evaluate(setup, *RANDOM, seeds=(4, 1))
    assert [(row["seed"], row["index"]) for row in rows if "trajectory" in row] == [(4, 0), (4, 1)]
    assert tuple(rows[0]["trajectory"]) == TRAJECTORY
    assert rows[0]["gold"] == EXAMPLES[0].answer


class Idle(Policy):
    """Reveals nothing: the budget is spent."""

    type_name = "idle"

    def select(self, observation):
        return observation.selectable & False

    def config(self):
        return {}

    @classmethod
    def from_config(cls, values, where):
        return cls()

    @classmethod
    def defaults(cls):
        return {}


def test_an_incomplete_answer_is_wrong_and_what_was_spent_is_counted(tiny):
    class Anything(type(TASK)):
        def verify(self, example, text):
            return True

    totals = Totals()
    setup = Setup(tiny, Anything.__new__(Anything), EXAMPLES[:2])
    setup.task.__dict__.update(TASK.__dict__)
    for policy, correct, nfe in ((RandomOrder(8), True, 1), (Idle(), False, 8)):
        entry = candidate("random_order:k=8", decoding(8))[0]
        rows = evaluate(setup, entry, policy, totals=totals)
        assert [(row["correct"], row["complete"], row["nfe"]) for row in rows] == [(correct, correct, nfe)] * 2
    assert totals.passes == 2 * 1 + 2 * 8


def test_the_batch_size_follows_the_dllm(tiny):
    assert Setup(tiny, TASK, EXAMPLES).active_rows == 256
    assert Setup(tiny, TASK, EXAMPLES, batch_size=3).active_rows == 3
