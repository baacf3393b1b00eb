"""The table of a calibration from rows worked out by hand."""

import pytest

from tests.one_speed import HOUSE_FULL
from tests.policies.test_speed import conditioned
from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import calibration_entries, in_markdown, promises, table_of
from unmask.evaluation.entries import decoding
from unmask.policies import load_policy


def measured(cells):
    """Rows of four prompts at each knob: (NFE, which are right)."""
    policy = conditioned()
    entries = calibration_entries("p", policy, decoding(8), knobs=len(cells))
    shared = {"model": "m", "task": "t", "split": "validation", "seed": 0}
    return policy, [
        (entry, [{**shared, "nfe": nfe, "correct": mark == "r", "text": f"{mark}{i}"} for i, mark in enumerate(right)])
        for (entry, _), (nfe, right) in zip(entries, cells, strict=True)
    ]


def test_speed_0_is_the_slowest_of_the_most_accurate():
    policy, found = measured([(8, "rrw."), (6, "rrr."), (6, "rrr."), (3, "rrww"), (1.5, "rwwr")])
    axis, table = table_of(policy, found, labels="verifier")
    # Knob 0.25 is the slowest of the best; 0.5 is no faster, and left out. From 6 to 1.5 are two halvings.
    assert axis == ((0.0, 0.25), (pytest.approx(0.5), 0.75), (pytest.approx(1.0), 1.0))
    assert [(row.knob, row.nfe, row.accuracy, row.lost, row.gained) for row in table.rows] == [
        (0.25, 6, 0.75, 0, 0),
        (0.75, 3, 0.5, 1, 0),
        (1.0, 1.5, 0.5, 2, 1),
    ]
    assert (table.prompts, table.gen_length, table.block_length, table.labels) == (4, 8, 8, "verifier")


def test_a_mixture_has_one_table_under_its_name():
    policy, found = measured([(8, "rr"), (4, "rr")])
    parts = [
        (entry, [{**row, "config": {"task": "a+b"}, "task": task} for row, task in zip(rows, "ab", strict=True)])
        for entry, rows in found
    ]
    assert table_of(policy, parts, labels="verifier")[1].task == "a+b"


def test_agreement_is_with_the_slowest():
    policy, found = measured([(8, "abcd"), (4, "abcx"), (2, "axcx")])
    _, table = table_of(policy, found, labels="agreement")
    assert [(row.accuracy, row.lost, row.gained) for row in table.rows] == [(1.0, 0, 0), (0.75, 1, 0), (0.5, 2, 0)]


def test_slow_answers_judge_as_a_verifier_does():
    policy, found = measured([(8, "rrrw"), (4, "rrwr")])
    _, table = table_of(policy, found, labels="slow_decode")
    assert [(row.accuracy, row.lost, row.gained) for row in table.rows] == [(0.75, 0, 0), (0.75, 1, 1)]
    assert "agreement with the slow decode %" in in_markdown(table)


def test_where_nothing_can_be_promised_it_says_why():
    policy, found = measured([(8, "r" * 40), (4, "r" * 20 + "w" * 20)])
    (told,) = promises(table_of(policy, found, labels="verifier")[1])
    assert told.endswith(
        "with 40 prompts: the next one was measured to lose 50.0; allow a larger drop, or use speed 0."
    )
    _, found = measured([(8, "r" * 40), (4, "r" * 40)])
    (told,) = promises(table_of(policy, found, labels="verifier")[1])
    assert "with 40 prompts: it would take about" in told


def test_an_axis_is_kept_and_what_is_slower_left_out():
    policy, found = measured([(8, "rrrr"), (6, "rrrr"), (3, "rrww")])
    axis, table = table_of(policy, found, labels="verifier", axis=((0.0, 0.5), (1.0, 1.0)))
    assert axis == ((0.0, 0.5), (1.0, 1.0))
    assert [(row.speed, row.nfe) for row in table.rows] == [(0.0, 6), (1.0, 3)]


def test_speed_0_is_slower_than_all_that_follows():
    policy, found = measured([(7.4, "rrrr"), (7.6, "rrrr"), (7.5, "rrrw"), (5, "rrww"), (6, "rwww")])
    axis, table = table_of(policy, found, labels="verifier")
    assert [knob for _, knob in axis] == [0.25, 0.5, 0.75]
    assert [(row.knob, row.nfe) for row in table.rows] == [(0.25, 7.6), (0.5, 7.5), (0.75, 5)]
    _, kept = table_of(policy, found, labels="verifier", axis=((0.0, 0.25), (1.0, 0.75)))
    assert [row.speed for row in kept.rows] == [0.0, 0.5, 1.0], "what lies past the end of an axis has no speed"


def test_a_policy_of_one_pace_keeps_the_networks_own_axis():
    policy, found = measured([(4, "rrrr"), (4, "rrrr"), (4, "rrrr")])
    axis, table = table_of(policy, found, labels="verifier")
    assert axis == ((0.0, 0.0), (1.0, 1.0))
    assert [(row.speed, row.nfe) for row in table.rows] == [(0.0, 4), (0.5, 4), (1.0, 4)]
    assert table.for_drop(0.01) == table.for_nfe(4) == 0.0
    policy, found = measured([(8, "rrww"), (6, "rrrw"), (4, "rrrr"), (5, "rrrw")])
    axis, table = table_of(policy, found, labels="verifier")
    assert [(row.speed, row.nfe) for row in table.rows] == [(0.0, 4), (1.0, 5)], "it begins where it is most accurate"
    with pytest.raises(UnmaskError, match="The policy p has no speed to calibrate"):
        calibration_entries("p", load_policy(HOUSE_FULL), decoding(8))
