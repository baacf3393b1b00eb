"""Training prompts: which are drawn, and what happens to long ones."""

import pytest

from tests.rl.runs import config, told, trainer
from tests.rl.tasks import Short
from unmask.errors import UnmaskError
from unmask.rl.prompts import Prompt, draw_prompts, fitting, training_prompts
from unmask.tasks.base import Example


def test_prompts_are_all_used_once_an_epoch():
    prompts = [Prompt(Example(str(i), ""), [i]) for i in range(10)]
    drawn = [p.tokens[0] for iteration in range(10) for p in draw_prompts(prompts, 4, 0, iteration)]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert [p.tokens[0] for p in draw_prompts(prompts, 4, 0, 3)] == drawn[12:16]


def test_long_prompts_are_skipped_or_truncated_when_told(tiny, tmp_path):
    limits = config(tmp_path / "a", max_prompt_length=10, long_prompts="skip")
    kept, note = training_prompts(tiny, Short(), limits, 20, seed=0, processes=1)
    assert 0 < len(kept) < 20
    assert note == f"{20 - len(kept)} of 20 prompts have more than 10 tokens and were left out."
    assert max(len(p.tokens) for p in kept) <= 10
    examples = Short().examples("train", 2)
    with pytest.raises(
        UnmaskError,
        match=r"2 of 2 .* what 96 positions of .* leave beside gen_length 92.* a dLLM with",
    ):
        fitting(tiny, examples, 92)
    with pytest.raises(UnmaskError, match="leaves 0 for a prompt beside gen_length 99: lower gen_length, or take"):
        fitting(tiny, examples, 99)
    limits = config(tmp_path / "b", max_prompt_length=5, long_prompts="truncate")
    cut, note = training_prompts(tiny, Short(), limits, 20, seed=0, processes=1)
    assert note == "20 of 20 prompts have more than 5 tokens and lost their beginning."
    assert [p.tokens for p in cut] == [tiny.encode(p.example.prompt)[-5:] for p in cut]
    trainer(tiny, tmp_path / "b", max_prompt_length=5, long_prompts="truncate").run()
    told_of = told(tmp_path / "b")[0]
    assert (told_of["stage"], told_of["message"]) == ("note", f"Training: {note}")
