"""Labels without gold answers: what the dLLM answers when it takes its time."""

from dataclasses import replace

import unmask
from tests.rl.runs import config, trainer
from tests.rl.tasks import Short
from unmask.decoding.options import DecodeConfig
from unmask.policies import TopKConfidence
from unmask.rl.labels import SlowAnswers
from unmask.tasks.base import Example


def test_the_slow_decode_is_right_whatever_the_gold_answer_says():
    model, house = unmask.load_model(), unmask.load_task("house")
    task = SlowAnswers(house, model, DecodeConfig())
    found, gold = task.examples("test", 6), house.examples("test", 6)
    assert [one.prompt for one in found] == [one.prompt for one in gold]
    slow = unmask.generate(model, TopKConfidence(1), [one.prompt for one in gold], gen_length=32, block_length=8)
    assert [one.answer for one in found] == slow.texts
    assert task.verify_all(found, slow.texts) == [True] * 6
    assert task.verify(replace(found[0], answer="the answer is attic"), "so the answer is attic")
    assert not task.verify(replace(found[0], answer="the answer is attic"), "the answer is hall")
    assert not task.verify(replace(found[0], answer="nothing"), "the answer is hall"), "no answer agrees with none"


def test_without_a_verifier_texts_must_be_equal(tiny):
    class Plain(Short):
        verifiable = False

    task = SlowAnswers(Plain(), tiny, DecodeConfig(block_length=4))
    assert task.verifiable
    example = Example("p", " red hall")
    assert task.verify(example, "red hall ")
    assert not task.verify(example, "red  hall")


def test_of_long_prompts_the_end_is_decoded(tiny):
    task = SlowAnswers(Short(), tiny, DecodeConfig(), longest=2)
    found = task.examples("train", 3)
    prompts = [tiny.encode(one.prompt)[-2:] for one in found]
    out = unmask.generate(tiny, TopKConfidence(1), prompts, gen_length=task.gen_length, block_length=task.block_length)
    assert [one.answer for one in found] == out.texts


def test_a_run_learns_from_them(tiny, tmp_path):
    decode = config(tmp_path).decode
    labelled = SlowAnswers(Short(), tiny, decode)
    run = trainer(tiny, tmp_path / "a", labelled, iterations=1)
    run.run()
    assert all(example.answer for example in labelled.examples("train", 4))
