"""The table in a policy's folder: numbers by hand, promises by simulation, and what is refused."""

import itertools
import json
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.policies.test_speed import conditioned
from unmask.errors import UnmaskError
from unmask.hub import weights_digest
from unmask.policies import load_policy
from unmask.policies.calibration import (
    Calibration,
    Measured,
    bound,
    choose,
    even_axis,
    interpolate,
    read_calibrations,
    write_calibration,
)


def table(rows, n=1000, **changes):
    """Rows as (speed, NFE, lost, gained) of n prompts."""
    measured = [
        Measured(knob=s, speed=s, nfe=nfe, accuracy=0.9, low=0.8, high=0.95, lost=lost, gained=gained)
        for s, nfe, lost, gained in rows
    ]
    place = {"model": "m", "task": "t", "split": "validation", "gen_length": 32, "block_length": 32}
    place |= {"stop_at_eos": False, "prompts": n, "seed": 0, "labels": "verifier", "weights": "w", **changes}
    return Calibration(**place, rows=tuple(measured))


STEPS = table([(0.0, 8.0, 0, 0), (0.5, 4.0, 2, 0), (1.0, 2.0, 300, 5)])


def test_speed_for_a_number_of_passes_is_even_in_their_logarithm():
    assert STEPS.for_nfe(4.0) == pytest.approx(0.5)
    assert STEPS.for_nfe(math.sqrt(8 * 4)) == pytest.approx(0.25)
    assert STEPS.for_nfe(2.0) == 1.0
    assert STEPS.for_nfe(30.0) == 0.0, "the slowest takes fewer"
    assert STEPS.nfe_at(0.25) == pytest.approx(math.sqrt(8 * 4))
    with pytest.raises(UnmaskError, match=r"No speed of this policy takes 1.5 forward passes: its fastest takes 2.00"):
        STEPS.for_nfe(1.5)
    with pytest.raises(UnmaskError, match="No speed of this policy takes nan"):
        STEPS.for_nfe(math.nan)


def test_a_speed_that_is_no_faster_is_passed_over():
    bumpy = table([(0.0, 8.0, 0, 0), (0.2, 8.5, 0, 0), (0.5, 4.0, 0, 0), (1.0, 2.0, 0, 0)])
    assert bumpy.for_nfe(8.2) == 0.0
    assert bumpy.for_nfe(math.sqrt(32)) == pytest.approx(0.25)


def test_a_promise_passes_over_what_is_no_faster():
    bumpy = table([(0.0, 8.0, 0, 0), (0.2, 8.5, 0, 0), (0.5, 8.2, 0, 0), (0.6, 4.0, 0, 0), (1.0, 2.0, 900, 0)])
    assert bumpy.for_drop(0.01) == 0.6
    slow = table([(0.0, 8.0, 0, 0), (0.2, 8.5, 0, 0), (1.0, 2.0, 900, 0)])
    with pytest.raises(UnmaskError, match=r"the next one was measured to lose 90.0"):
        slow.for_drop(0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nfe": 0.0}, "greater than 0"),
        ({"speed": 2.0}, "less than or equal to 1"),
        ({"accuracy": 90.0}, "less than or equal to 1"),
        ({"lost": 2000}, "more answers are lost and gained than there are prompts"),
        ({"speed": 0.9}, "the rows are not in order of their speeds"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, change, message):
    conditioned().save(tmp_path / "p")
    values = STEPS.model_dump(mode="json")
    values["rows"][1 if change.get("speed") != 0.9 else 0].update(change)
    (tmp_path / "p" / "calibration.json").write_text(json.dumps({"tables": [values]}))
    with pytest.raises(UnmaskError, match=message):
        read_calibrations(tmp_path / "p")


def test_bounds_are_exact():
    assert bound(0, 299, 0.05, "less") == pytest.approx(1 - 0.05 ** (1 / 299))  # rule of three
    assert bound(299, 299, 0.05, "greater") == pytest.approx(0.05 ** (1 / 299))
    assert bound(10, 100, 0.025, "less") == pytest.approx(0.17622, abs=1e-5)  # Clopper and Pearson's table
    assert bound(10, 100, 0.025, "greater") == pytest.approx(0.04900, abs=1e-5)


def test_a_promise_is_the_fastest_speed_before_the_first_that_fails():
    # 2 of 1000 lost: at 97.5% at most 0.0072, nothing gained; 300 lost are too many for any small drop.
    assert STEPS.most_lost(STEPS.rows[1], 0.95) == pytest.approx(bound(2, 1000, 0.025, "less"))
    assert STEPS.for_drop(0.01) == 0.5
    assert STEPS.for_drop(0.5) == 1.0
    agreement = STEPS.model_copy(update={"labels": "agreement"})
    assert agreement.most_lost(STEPS.rows[1], 0.95) == pytest.approx(bound(2, 1000, 0.05, "less"))
    hole = table([(0.0, 8.0, 0, 0), (0.3, 6.0, 40, 0), (0.6, 4.0, 0, 0)])
    with pytest.raises(UnmaskError, match="the next one was measured to lose 4.0; allow a larger drop, or use speed 0"):
        hole.for_drop(0.01)


def test_too_few_prompts_are_told_how_many_it_takes():
    few = table([(0.0, 8.0, 0, 0), (1.0, 4.0, 0, 0)], n=100)
    with pytest.raises(UnmaskError, match="with 100 prompts: it would take about ") as refused:
        few.for_drop(0.01)
    needed = int(str(refused.value).partition("about ")[2].partition(" ")[0])
    assert 368 <= needed <= 368 * 1.1, "0.025 ** (1 / 368) is 0.99"
    assert table([(0.0, 8.0, 0, 0), (1.0, 4.0, 0, 0)], n=needed).for_drop(0.01) == 1.0
    for drop, confidence in ((0.0, 0.95), (0.01, 1.0), (1.0, 0.9)):
        with pytest.raises(UnmaskError, match="is no promise: give shares below 1"):
            few.for_drop(drop, confidence)


@pytest.mark.parametrize("gains", [False, True])
def test_promises_are_broken_no_more_often_than_stated(gains):
    """200 calibrations of 400 prompts at a true curve whose drop crosses 3 points between two speeds."""
    true = [(0.0, 0.0), (0.01, 0.005), (0.02, 0.01), (0.031, 0.0), (0.05, 0.01), (0.2, 0.0)]  # lost, gained
    true = [(lost + (0.02 if gains else 0.0), gained + (0.02 if gains else 0.0)) for lost, gained in true]
    true[0] = (0.0, 0.0)
    rng, n, drop, broken, kept = random.Random(0), 400, 0.03, 0, 0
    for _ in range(200):
        rows = []
        for i, (lost, gained) in enumerate(true):
            draws = [rng.random() for _ in range(n)]
            counts = (sum(u < lost for u in draws), sum(lost <= u < lost + gained for u in draws))
            rows.append((i / 5, 8.0 - i, *counts))
        try:
            chosen = round(table(rows, n=n).for_drop(drop, 0.9) * 5)
        except UnmaskError:
            continue
        kept += 1
        lost, gained = true[chosen]
        broken += lost - gained > drop
    assert broken / 200 <= 0.1
    assert kept > 20, "a promise that is never made shows nothing"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1.0, 30.0), min_size=2, max_size=12))
@example([8.0, 1.0000000000000002, 1.0])
def test_an_even_axis_rises_and_is_even_in_log_nfe(nfe):
    curve = [(i / (len(nfe) - 1), value) for i, value in enumerate(nfe)]
    axis = even_axis(curve)
    if min(nfe[1:]) >= nfe[0] * (1 - 1e-9):
        assert axis == ()
        return
    assert axis[0] == (0.0, 0.0)
    assert axis[-1][0] == pytest.approx(1.0)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(axis))
    by_knob = dict(curve)
    slow, fast = math.log(nfe[0]), math.log(min(nfe))
    for speed, knob in axis:
        assert math.log(by_knob[knob]) == pytest.approx(slow + speed * (fast - slow), abs=1e-6)


def test_interpolation_stays_inside():
    points = [(0.0, 1.0), (2.0, 3.0)]
    assert [interpolate(points, x) for x in (-1, 0, 1, 2, 5)] == [1.0, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.unchecked
def test_a_folder_keeps_a_table_per_dllm_and_task(tmp_path):
    policy = conditioned()
    policy.save(tmp_path / "p")
    with pytest.raises(UnmaskError, match="This policy has no calibration, or one of other weights"):
        load_policy(tmp_path / "p").speed_for(target_nfe=4)
    steps = STEPS.model_copy(update={"weights": weights_digest(policy.weights())})
    write_calibration(tmp_path / "p", steps)
    write_calibration(tmp_path / "p", steps.model_copy(update={"task": "other"}))
    write_calibration(tmp_path / "p", steps.model_copy(update={"prompts": 700}))
    found = read_calibrations(tmp_path / "p")
    assert [(one.task, one.prompts) for one in found] == [("t", 700), ("other", 1000)]
    again = load_policy(tmp_path / "p")
    assert again.speed_for(target_nfe=4.0) == pytest.approx(0.5)
    again.save(tmp_path / "copy")
    assert load_policy(tmp_path / "copy").calibrations == found
    with pytest.raises(UnmaskError, match="Give either target_nfe or max_drop"):
        again.speed_for()
    with pytest.raises(UnmaskError, match="target_nfe is '6': give a number"):
        again.speed_for(target_nfe="6")
    assert again.speed_for(max_drop=0.05, task="other") == again.speed_for(max_drop=0.05)
    with pytest.raises(UnmaskError, match="The calibration is of task t, not math"):
        again.speed_for(target_nfe=6, task="math")
    write_calibration(tmp_path / "p", STEPS, keep=False)
    assert read_calibrations(tmp_path / "p") == (STEPS,)
    assert load_policy(tmp_path / "p").calibrations == (), "a table of other weights says nothing of these"


def test_the_nearest_table_is_chosen_and_told_apart():
    other = STEPS.model_copy(update={"model": "big", "gen_length": 64})
    best, differs = choose([other, STEPS], model="m", task=None, gen_length=32, block_length=8)
    assert best is STEPS
    assert differs == ["block length 32, not 8"]
    assert choose([STEPS], model="m", cache="dual")[1] == ["cache default, not dual"]
    assert choose([other], model="m", gen_length=32)[1] == ["model big, not m", "gen length 64, not 32"]


@pytest.mark.parametrize("text", ["{", "[]", '{"tables": [{"model": 3}]}', '{"tables": 5}'])
def test_broken_tables_are_refused(tmp_path, text):
    conditioned().save(tmp_path / "p")
    (tmp_path / "p" / "calibration.json").write_text(text)
    with pytest.raises(UnmaskError, match=r"calibration.json is not what `unmask calibrate` wrote"):
        load_policy(tmp_path / "p")
