"""From rows to findings: what is comparable, and learned policies against rules and their controls."""

import json
from dataclasses import replace

import pytest

from unmask.errors import UnmaskError
from unmask.evaluation.entries import Entry, candidate, decoding
from unmask.evaluation.findings import EVERY_RULE
from unmask.evaluation.gather import findings, read_results, versus
from unmask.evaluation.summaries import summarise

FULL = decoding(32)
POLICY = Entry("policy", None, "policy", {"type": "transformer", "name": "best", "weights": "w1"}, FULL, True)
CLONE = replace(POLICY, kind="clone", of="w1", label="cloned", policy={**POLICY.policy, "name": "x", "weights": "w0"})
REPLAY = Entry("replay", POLICY.digest, "replay", {"type": "fixed_schedule", "counts": [32], "name": "pace"}, FULL)
OTHER = replace(POLICY, policy={**POLICY.policy, "name": "start", "weights": "w2"})
FACTOR, RANDOM = (candidate(spec, FULL)[0] for spec in ("factor", "random_order"))


def rows(entry, correct, nfe=4, **changes):
    made = {
        **entry.columns(),
        "seed": 0,
        "model": "tiny",
        "task": "house",
        "split": "test",
        "versions": {"unmask": "0"},
        "hardware": "cpu",
        "text": "t",
        "tokens": 8,
        "reveals": [8] * nfe,
        "complete": True,
        "ended": "complete",
        "nfe": nfe,
    }
    return [{**made, "index": i, "prompt": f"p{i}", "correct": right, **changes} for i, right in enumerate(correct)]


def write(folder, *groups):
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for group in groups for row in group))
    return folder


RESULTS = [
    (POLICY, rows(POLICY, [1, 1, 1, 0])),
    (CLONE, rows(CLONE, [1, 0, 0, 0], nfe=6)),
    (REPLAY, rows(REPLAY, [1, 1, 0, 0])),
    (OTHER, rows(OTHER, [1, 1, 0, 0], nfe=2)),
    (FACTOR, rows(FACTOR, [1, 0, 0, 0])),
    (RANDOM, rows(RANDOM, [0, 0, 1, 0], nfe=8)),
]
SUMMARIES = [summarise(entry, rows) for entry, rows in RESULTS]


def test_policies_stand_against_rules_and_their_own_controls():
    found = versus(RESULTS, SUMMARIES)
    assert [(one.cell, one.rule, one.control) for one in found] == [
        (3, EVERY_RULE, False),
        (3, "factor", False),
        (3, "random", False),
        (0, EVERY_RULE, False),
        (0, "factor", False),
        (0, "random", False),
        (0, "cloned, at 6.0 NFE", True),
        (0, "replay, at 4.0 NFE", True),
    ]
    means = [one.difference.mean for one in found]
    assert means[4] == pytest.approx(0.5)
    assert means[5] != means[5], "random is not so fast"
    assert means[6:] == pytest.approx([0.5, 0.25])


def test_findings_of_it_all():
    found = findings(RESULTS, SUMMARIES)
    assert found.title == "tiny on house"
    assert [cell.rule for cell in found.cells] == ["policy", "cloned", "replay", "policy", "factor", "random"]
    assert [cell.learned for cell in found.cells] == [True, True, False, True, False, False]
    assert found.cells[4].config == {
        "policy": {"type": "factor", "factor": 1.0, "released": False},
        "gen_length": 32,
        "block_length": 32,
        "suppress_eos": False,
    }
    assert found.cells[1].beaten_by == 0
    assert found.facts["cells"] == "6, 24 rows"
    assert {rule.rule: rule.cells for rule in found.rules}["policy"] == 2


def test_results_come_back_from_folders(tmp_path):
    first = write(tmp_path / "a", RESULTS[0][1], RESULTS[4][1][::-1])
    second = write(tmp_path / "b", RESULTS[1][1])
    found = read_results([first, second])
    assert [entry.key for entry, _ in found] == [POLICY.key, FACTOR.key, CLONE.key]
    assert found[1][1] == RESULTS[4][1], "by seed and prompt"
    assert found[2][0].controls(found[0][0])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (rows(RANDOM, [1, 0, 1, 1], model="big"), "has model 'tiny' and .*b 'big': results that differ in it are not"),
        (rows(RANDOM, [1, 0, 1, 1], config={"task": "mix"}), "has task 'house' and .*b 'mix'"),
        (rows(FACTOR, [1, 0, 0, 0]), "a and .*b both hold the entry factor .*: give one."),
        (rows(RANDOM, [1, 0, 1, 1], prompt="p"), "b has another prompt 0 than the results before it"),
        (rows(RANDOM, [1, 0, 1]), "b has 3 rows of random .k 1. for 1 seeds and 4 prompts: evaluate all entries on"),
    ],
)
def test_what_is_not_comparable_is_refused(tmp_path, others, message):
    with pytest.raises(UnmaskError, match=message):
        read_results([write(tmp_path / "a", RESULTS[4][1]), write(tmp_path / "b", others)])


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(UnmaskError, match="has no rows.jsonl: end its evaluation with --resume first."):
        read_results([tmp_path])
    with pytest.raises(UnmaskError, match="holds no rows: evaluate anew."):
        read_results([write(tmp_path / "a")])
    with pytest.raises(UnmaskError, match="A comparison on one prompt has no intervals: evaluate more prompts."):
        read_results([write(tmp_path / "b", rows(FACTOR, [1]))])
