"""Labels without gold answers: what the dLLM answers when it takes its time."""

import json
from dataclasses import replace

import unmask
from tests.rl.runs import config, trainer
from tests.rl.tasks import Short
from unmask.decoding.options import DecodeConfig
from unmask.policies import TopKConfidence
from unmask.rl.labels import SlowAnswers


def test_the_slow_decode_is_right_whatever_the_gold_answer_says():
    model, house = unmask.load_model(), unmask.load_task("house")
    task = SlowAnswers(house, model, DecodeConfig())
    found = task.examples("test", 6)
    slow = unmask.generate(model, TopKConfidence(1), [one.prompt for one in found], gen_length=32, block_length=8)
    assert task.answers(found) == slow.texts
    assert task.verify_all(found, slow.texts) == [True] * 6
    rooms = [text.split("the answer is ")[1].split()[0].rstrip(".") for text in slow.texts]
    wrong = [replace(one, answer="the answer is nowhere") for one in found]  # gold answers are not looked at
    assert task.verify_all(wrong, [f"so the answer is {room}" for room in rooms]) == [True] * 6
    assert task.verify_all(found, [f"the answer is {room}" for room in reversed(rooms)]) != [True] * 6


def test_without_a_verifier_texts_must_be_equal(tiny):
    class Plain(Short):
        verifiable = False

    task = SlowAnswers(Plain(), tiny, DecodeConfig(block_length=4))
    assert task.verifiable
    (example,) = task.examples("train", 1)
    (slow,) = task.answers([example])
    assert task.verify(example, f"{slow} ")
    assert not task.verify(example, slow.replace(" ", "  ", 1))


def test_of_long_prompts_the_end_is_decoded(tiny):
    task = SlowAnswers(Short(), tiny, DecodeConfig(), longest=2)
    found = task.examples("train", 3)
    prompts = [tiny.encode(one.prompt)[-2:] for one in found]
    out = unmask.generate(tiny, TopKConfidence(1), prompts, gen_length=task.gen_length, block_length=task.block_length)
    assert task.answers(found) == out.texts


def test_each_prompt_is_decoded_once_and_kept(tiny, tmp_path):
    kept = tmp_path / "slow.jsonl"
    task = SlowAnswers(Short(), tiny, DecodeConfig(), kept=kept)
    found = task.examples("train", 3)
    first = task.answers([found[0], found[1], found[0]])
    assert task.answers(found)[:2] == first[:2]
    assert len(kept.read_text().splitlines()) == 3
    kept.write_text(kept.read_text().replace(json.dumps(first[0]), '"another"') + '{"of": "cut sh')
    again = SlowAnswers(Short(), tiny, DecodeConfig(), kept=kept)
    assert again.answers(found[:1]) == ["another"]
    assert len(kept.read_text().splitlines()) == 3
    other = SlowAnswers(Short(), tiny, DecodeConfig(block_length=2), kept=kept)
    assert other.answers(found[:1]) != ["another"], "in other blocks it answers anew"


def test_a_run_learns_from_them(tiny, tmp_path):
    labelled = SlowAnswers(Short(), tiny, config(tmp_path).decode, kept=tmp_path / "a" / "slow.jsonl")
    trainer(tiny, tmp_path / "a", labelled, iterations=1).run()
    rows = [json.loads(line) for line in (tmp_path / "a" / "slow.jsonl").read_text().splitlines()]
    assert len(rows) == len({tuple(row["prompt"]) for row in rows}) > 0
