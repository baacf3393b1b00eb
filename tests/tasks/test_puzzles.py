"""Puzzles: right by construction, disjoint splits, verifiers that can say no, and what is known of their order."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.tasks.addition import depths
from unmask.tasks.auto import PUZZLES, load_task
from unmask.tasks.base import SPLITS, Example
from unmask.tasks.procedural import Stage, split_of

SOME = [
    "addition",
    "addition:digits=3,nines=0",
    "lists",
    "lists:items=3,letters=3,operation=sort",
    "lists:operation=shuffle",
    "lists:operation=replace",
    "lists:operation=pairs",
    "nae-sat",
    "nae-sat:latents=5,clauses=10",
    "sudoku",
]
OF_SUDOKU = "sudoku"  # whose splits are by solutions


@pytest.mark.parametrize("name", SOME)
@given(seed=st.integers(0, 10**6), grown=st.floats(0, 1), where=st.integers(0, 35))
def test_a_drawn_answer_is_right_and_listed_and_a_changed_one_is_right_only_if_it_is_listed(name, seed, grown, where):
    task, rng = load_task(name), random.Random(seed)
    example = task.draw(rng, grown)
    words = example.answer.split()
    assert len(words) == task.gen_length
    assert len(example.prompt.split()) == task.prompt_length
    assert len(task.places()) == task.prompt_length + task.gen_length
    assert task.verify(example, example.answer)
    answers = task.answers(example)
    assert tuple(words) in answers
    words[where % len(words)] = rng.choice(task.words())
    assert task.verify(example, " ".join(words)) == (tuple(words) in answers)
    for text in ("", example.answer + " " + words[0], " ".join(words[1:]), "[MASK] " + " ".join(words[1:])):
        assert not task.verify(example, text)


@pytest.mark.parametrize("name", sorted(PUZZLES))
def test_splits_share_no_prompt_and_repeat_for_a_seed(name):
    task = load_task(name)
    prompts = {split: {e.prompt for e in task.examples(split, 40)} for split in SPLITS}
    assert all(len(found) == 40 for found in prompts.values())
    for a, b in itertools.combinations(SPLITS, 2):
        assert not prompts[a] & prompts[b]
    if name != OF_SUDOKU:
        assert all({split_of(prompt) for prompt in found} == {split} for split, found in prompts.items())
    assert task.examples("test", 5, seed=3) == task.examples("test", 5, seed=3)
    assert task.examples("test", 5, seed=3) != task.examples("test", 5, seed=4)


@pytest.mark.parametrize("name", sorted(PUZZLES))
def test_training_text_is_of_the_pretrain_split_and_of_the_words(name, monkeypatch):
    monkeypatch.setattr("unmask.tasks.sudoku.POOL", 20)
    task, rng = load_task(name), random.Random(0)
    for grown in (0.0, 0.5, 1.0):
        for _ in range(20):
            prompt, answer = task.training_text(rng, Stage(grown))
            assert {*prompt.split(), *answer.split()} <= {*task.words(), "?"}
            assert task.verify(Example(prompt, answer), answer)
            if name != OF_SUDOKU:
                assert split_of(prompt) == "pretrain"


def test_no_grid_of_sudoku_is_in_two_splits():
    task = load_task("sudoku")
    grids = {}
    for split in SPLITS:
        for example in task.examples(split, 40):
            names = {digit: str(i) for i, digit in enumerate(dict.fromkeys(example.answer.split()))}
            grids.setdefault(" ".join(names[digit] for digit in example.answer.split()), set()).add(split)
            assert example.columns == {"givens": 18}
            assert example.prompt.count("_") == 18
    assert all(len(splits) == 1 for splits in grids.values())


def test_lists_by_hand():
    task = load_task("lists:items=3,letters=5")
    right = {
        "copy b a c": ["b a c"],
        "reverse b a c": ["c a b"],
        "sort b a c": ["a b c"],
        "shuffle b a c": ["b a c", "b c a", "a b c", "a c b", "c a b", "c b a"],
        "mark b a c": ["* a c", "b * c", "b a *"],
        "replace b a c": ["d a c", "e a c", "b d c", "b e c", "b a d", "b a e"],
    }
    for prompt, answers in right.items():
        example = Example(prompt, answers[0])
        assert sorted(map(" ".join, task.answers(example))) == sorted(answers)
        assert not task.verify(example, "b b b")
        assert not task.verify(example, "* * c")
    pairs = Example("pairs 2 b 1 k 1 a 2 c", "")
    even = load_task("lists:operation=pairs,items=4")
    assert sorted(map(" ".join, even.answers(pairs))) == ["b a k c", "b k a c", "c a k b", "c k a b"]
    assert even.order(pairs) == [0, 0, 1, 1], "b and k before their partners"
    orders = {prompt.split()[0]: task.order(Example(prompt, "")) for prompt in right}
    assert orders["copy"] == orders["sort"] == [0, 0, 0]
    assert (orders["shuffle"], orders["mark"]) == ([0, 1, 2], [0, 0, 1])


def test_the_depth_of_a_carry_by_hand():
    # 4 5 9 9 + 5 5 0 2: from the right 11 (carries), 9, 10, 9
    assert depths([(4, 5), (5, 5), (9, 0), (9, 2)]) == [1, 0, 1, 0, 0]
    assert depths([(9, 0)] * 3) == [3, 2, 1, 0]
    example = Example("4 5 9 9 + 5 5 0 2 =", "1 0 1 0 1")
    task = load_task("addition:digits=4")
    assert task.verify(example, "1 0 1 0 1")
    assert task.order(example) == [1, 0, 1, 0, 0]
    hard = load_task("addition").examples("test", 200)
    assert sum(example.columns["depth"] for example in hard) / 200 > 4


def test_clauses_are_of_fixed_triples_and_more_clauses_keep_them():
    task, more = load_task("nae-sat"), load_task("nae-sat:clauses=48")
    assert more.triples[:24] == task.triples
    assert len(set(more.triples)) == 48
    a = task.triples[0][0]
    bits = ["0"] * 12
    example = Example(" ".join(bits), "")
    assert task.verify(example, " ".join(bits + ["0"] * 24)), "all equal: every clause is 0"
    bits[a] = "1"
    clauses = [str(int(a in triple)) for triple in task.triples]
    assert task.verify(Example(" ".join(bits), ""), " ".join(bits + clauses))
    assert not task.verify(example, " ".join(bits + clauses)), "a latent that was given has changed"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lists:items=30", r"Bad value in lists: .*26 letters are too few for 30 different items: give fewer items or"),
        ("nae-sat:latents=1000000", "less than or equal to 100"),
        ("lists:operation=pairs,items=5", "5 items are no pairs: give an even number"),
        ("lists:type=3", "Unknown key 'type' in lists"),
        ("addition:digits=5000", "Bad value in addition: digits = '5000'"),
        ("lists:item=3", "Unknown key 'item' in lists: did you mean 'items'"),
        ("lists:operation=sorts", "Bad value in lists: operation = 'sorts'"),
        ("nae-sat:latents=4,clauses=5", "4 latents have fewer than 5 triples: give fewer clauses, or more latents"),
        ("addition:digits=0", "Bad value in addition: digits = '0'"),
        ("sudoku:givens=40", "Bad value in sudoku: givens = '40'"),
        ("sudokus", "Unknown task 'sudokus': did you mean 'sudoku'"),
    ],
)
def test_a_difficulty_without_a_problem_is_refused(name, message):
    with pytest.raises(UnmaskError, match=message):
        load_task(name)


def test_what_no_draw_finds_is_refused():
    with pytest.raises(UnmaskError, match="No 6 x 6 Sudoku with 4 givens and one solution was found: give more"):
        load_task("sudoku:givens=4").examples("test", 1)
    with pytest.raises(UnmaskError, match=r"Task 'addition:digits=1' has about \d+ test prompts, not 400: ask"):
        load_task("addition:digits=1").examples("test", 400)
    with pytest.raises(
        UnmaskError, match="'lists:items=2,letters=2,operation=sort' has no test prompts: choose another"
    ):
        load_task("lists:items=2,letters=2,operation=sort").examples("test", 1)
    with pytest.raises(UnmaskError, match="The prompts of 'lists' are drawn and have no end: say how many"):
        load_task("lists").examples("test")
    with pytest.raises(UnmaskError, match="The task 'lists' has a verifier of its own"):
        load_task("lists", "exact")


def test_an_answer_fills_its_region_and_no_other():
    task = load_task("lists")
    assert task.region(None) == task.region(8) == 8
    with pytest.raises(
        UnmaskError, match="The answers of 'lists' fill a region of 8 positions, not 16: leave out gen_"
    ):
        task.region(16)
    with pytest.raises(UnmaskError, match="A mixture has one region, of 16 positions here, and 'lists' fills one of 8"):
        load_task("lists+lists:items=16", weights=[1, 1])
    with pytest.raises(UnmaskError, match="of 32 positions here, and 'lists' fills one of 8: evaluate them one by one"):
        load_task("house+lists", weights=[1, 1])
    assert load_task("lists+lists:operation=mark", weights=[1, 1]).gen_length == 8
    assert load_task("nae-sat:clauses=25").block_length == 1, "a block divides the region"


def test_a_puzzle_without_prompts_for_training_says_so():
    with pytest.raises(UnmaskError, match="has no prompts to train a dLLM on: choose another difficulty"):
        load_task("nae-sat:latents=5,clauses=3,given=0").training_text(random.Random(0), Stage())


def test_one_difficulty_has_one_name():
    """However it is spelt: rows, splits and reports know tasks by their names."""
    assert load_task("lists:items=8").name == load_task("lists:items=08,letters=26").name == "lists"
    assert load_task("lists:letters=20,items=4").name == load_task("lists:items=4,letters=20").name
    assert load_task("nae-sat:given=0.50,clauses=48").name == "nae-sat:clauses=48"
    assert load_task("lists:operation=mark").examples("test", 3) == load_task("lists:operation=mark,items=8").examples(
        "test", 3
    )
