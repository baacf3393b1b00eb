"""What a run says of itself before it starts, and on the card of its policy."""

import json

import pytest

from unmask.rl.card import card, describe
from unmask.rl.config import TrainConfig

LINES = [
    {"stage": "validation", "iteration": 0, "reward": 0.5, "correct": 0.9, "nfe": 12.0},
    {"stage": "grpo", "iteration": 7, "reward": 0.9},
    {"stage": "validation", "iteration": 4, "reward": 0.75, "correct": 0.95, "nfe": 8.0},
    {"stage": "validation", "iteration": 7, "reward": 0.75, "correct": 0.925, "nfe": 7.5},
]


def carded(tmp_path, lines=LINES, **tables):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables["run"] = {"folder": str(tmp_path / "mine"), **tables.get("run", {})}
    return card(TrainConfig.model_validate(tables), "house-base", "house", 32)


def test_the_card_says_where_from_how_long_and_how_good(tmp_path):
    text = carded(tmp_path, algorithm={"name": "rloo", "alpha": 3.0})
    assert "# mine" in text
    assert "for the dLLM `house-base` in full diffusion; network `transformer`.\n" in text
    assert "starting from fresh weights, fitted to `confidence_threshold:threshold=0.9` in blocks." in text
    assert "7 iterations of RLOO, 8 prompts x 8 roll-outs\neach, learning rate 5e-05" in text
    assert "of iteration 7:\n92.5% correct at 7.5 forward passes" in text, "of equal rewards the faster one is kept"
    assert "prompts, gen_length=32)" in text


def test_the_card_says_the_temperature_that_was_better(tmp_path):
    better = {"stage": "temperature", "iteration": 9, "temperature": 0.5, "reward": 0.8, "correct": 0.99, "nfe": 7.25}
    text = carded(tmp_path, lines=[*LINES, better, {**better, "temperature": 0.25, "reward": 0.7}])
    assert "of iteration 7, its logits divided by 0.5:\n99.0% correct at 7.2 forward passes" in text


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"policy": {"reads": "hidden_states"}}, "network `transformer` (reads = hidden_states)"),
        ({"policy": {"init": "house-base-full"}}, "full diffusion.\n"),
        ({"policy": {"init": "house-base-full"}}, "starting from `house-base-full`.\n"),
        ({"decode": {"block_length": 8}}, "gen_length=32, block_length=8)"),
        ({"decode": {"block_length": "adaptive:default=8"}}, 'block_length="adaptive:default=8")'),
        ({"run": {"iterations": 0}}, "No reinforcement learning followed."),
        ({"algorithm": {"experts": ["factor"]}}, "8 prompts x 8 roll-outs + 1 expert(s)"),
    ],
)
def test_the_card_says_what_was_asked_for(tmp_path, tables, words):
    assert words in carded(tmp_path, **tables)


def test_two_lines_before_it_starts():
    assert describe(TrainConfig.model_validate({"algorithm": "ppo"}), "m", "t", 16) == (
        "A policy for m on t: full diffusion, 16 positions, multiplicative reward, alpha 1.\n"
        "From fresh weights, clone confidence_threshold:threshold=0.9, then 90 iterations of PPO, 8 prompts x 8 "
        "roll-outs each; run folder runs/policy."
    )
