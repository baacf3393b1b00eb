"""What an entry is, told by data alone: its key, its controls, the grids of rules."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tests.one_speed import HOUSE_BLOCK8, HOUSE_FULL
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.errors import UnmaskError
from unmask.evaluation.entries import COLUMNS, Entry, RuleGrid, candidate, clone_of, decoding, entry_key, is_full, tuned
from unmask.hub import weights_digest, write_origin
from unmask.policies import FixedSchedule, TransformerConfig, TransformerPolicy, load_policy

FULL = decoding(32)


def learned(seed, decode=FULL, name="mine"):
    torch.manual_seed(seed)
    return Entry.of_policy(name, TransformerPolicy(TransformerConfig(width=8, feed_forward=8)), decode)


def test_a_row_holds_its_entry():
    entries = [
        candidate("random_order:k=2", decoding(32, 8, stop_at_eos=True))[0],
        candidate("confidence_threshold:threshold=0.9", decoding(32, "adaptive:default=8,delimiters=[.]"))[0],
        Entry.of_policy("any", FixedSchedule((1, 2)), decoding(8, suppress_eos=True)),
        learned(0),
    ]
    for entry in entries:
        row = json.loads(json.dumps({**entry.columns(), "seed": 3, "text": "more"}))
        again = Entry.of_row(row)
        assert again.key == entry_key(row) == entry.key
        assert again.decode == entry.decode
        assert (again.kind, again.of, again.label, again.stochastic) == (
            entry.kind,
            entry.of,
            entry.label,
            entry.stochastic,
        )
        assert tuple(entry.columns()) == COLUMNS
    assert len({entry.key for entry in entries}) == 4


def test_rules_and_learned_policies():
    rule, _ = candidate("top_k_confidence:k=2", decoding(32, 8))
    assert (rule.kind, rule.label, rule.policy) == (
        "rule",
        "top-k",
        {"type": "top_k_confidence", "k": 2, "alg_temp": 0.0},
    )
    assert (rule.of, rule.weights, rule.stochastic) == (None, None, False)
    assert candidate("factor", decoding(32, suppress_eos=True))[0].label == "factor, EOS suppressed"
    assert candidate("factor | max_reveal:n=2", FULL)[0].label == "max_reveal"
    policy, made = candidate(HOUSE_FULL, FULL)
    assert (policy.kind, policy.label, policy.stochastic) == ("policy", "policy", True)
    assert policy.policy["name"] == HOUSE_FULL
    assert policy.weights == weights_digest(made.weights())
    assert candidate(f"{HOUSE_FULL} | temperature:tau=2", FULL)[0].kind == "policy"


def test_blocks_are_read_once():
    assert decoding(32) == decoding(32, 32) == decoding(32, "32")
    assert is_full(decoding(32))
    assert not is_full(decoding(32, 8))
    adaptive = decoding(30, "adaptive:default=8")
    assert adaptive.block_length == AdaptiveBlocks(default=8)
    assert not is_full(adaptive)
    with pytest.raises(UnmaskError, match="block_length 5 does not divide gen_length 32"):
        decoding(32, 5)
    with pytest.raises(UnmaskError, match="^Unknown block_length 'some'"):
        decoding(32, "some")


def test_a_control_is_of_one_policy_decoded_in_the_same_way():
    policy, other = learned(0), learned(1)
    renamed = learned(0, name="runs/elsewhere/best")
    hotter = replace(policy, policy={**policy.policy, "tau": 2.0})
    assert policy.digest == renamed.digest
    assert len({policy.digest, other.digest, hotter.digest}) == 3
    clone = replace(other, kind="clone", of=policy.weights)
    replay = Entry("replay", policy.digest, "replay", {"type": "fixed_schedule", "counts": [1]}, FULL)
    assert [clone.controls(one) for one in (policy, renamed, hotter, other)] == [True, True, True, False]
    assert [replay.controls(one) for one in (policy, renamed, hotter, other)] == [True, True, False, False]
    assert not replace(clone, decode=decoding(32, 8)).controls(policy)
    assert not policy.controls(policy)
    assert not candidate("factor", FULL)[0].controls(policy)


@pytest.fixture
def run(tmp_path):
    """A run folder as training leaves it, whatever its folders are called."""
    for part, name in (("chosen", HOUSE_FULL), ("begun", HOUSE_BLOCK8)):
        shutil.copytree(name, tmp_path / "run" / part)
    write_origin(tmp_path / "run" / "chosen", tmp_path / "run" / "begun")
    return tmp_path / "run"


def test_a_clone_is_what_the_policy_says_it_began_as(run):
    name = str(run / "chosen")
    policy, _ = candidate(name, decoding(32, 8))
    clone, made = clone_of(name, policy)
    assert (clone.kind, clone.label, clone.of) == ("clone", "cloned", policy.weights)
    assert clone.policy["name"] == str(run / "begun")
    assert clone.controls(policy)
    assert weights_digest(made.weights()) == clone.weights != policy.weights


def test_without_an_origin_there_is_no_clone(run):
    def found(name):
        return clone_of(name, candidate(name, FULL)[0])

    assert found(HOUSE_FULL) is None
    assert found("factor") is None
    assert found(f"{run / 'chosen'} | temperature:tau=2") is None
    assert found(str(run / "begun")) is None
    shutil.rmtree(run / "begun")
    assert found(str(run / "chosen")) is None, "moved away from its run"


def test_a_clone_that_was_replaced_is_refused(run):
    shutil.rmtree(run / "begun")
    shutil.copytree(HOUSE_FULL, run / "begun")
    name = str(run / "chosen")
    with pytest.raises(UnmaskError, match=r"begun has other weights than .* began from: put that one back, or delete"):
        clone_of(name, candidate(name, FULL)[0])


def test_the_grid_has_eos_suppression_in_full_diffusion_only():
    full, semi = ([entry for entry, _ in tuned(decoding(32, length))] for length in (32, 2))
    assert {entry.policy["type"] for entry in full if entry.decode.suppress_eos} == {"confidence_threshold"}
    assert not any(entry.decode.suppress_eos for entry in semi)
    assert {entry.policy["k"] for entry in semi if entry.label == "top-k"} == {1, 2}
    thresholds = {entry.policy["threshold"] for entry in full if entry.label == "threshold"}
    assert min(thresholds) == 0.3
    assert max(thresholds) == 0.99


def test_the_tuned_grids_are_those_of_before():
    """In number and order: results keep their order."""
    families = [entry.label for entry, _ in tuned(FULL)]
    before = {
        "threshold": 8,
        "EB": 9,
        "factor": 6,
        "KLASS": 9,
        "margin": 8,
        "margin top-k": 4,
        "random": 4,
        "rising threshold": 9,
        "top-k": 4,
        "threshold, EOS suppressed": 8,
    }
    known = [family for family in families if family in before]  # a new rule joins in its place
    assert known == [family for family, count in before.items() for _ in range(count)]


def test_a_grid_of_ones_own():
    grid = RuleGrid(policy="top_k_confidence", settings={"k": (4, 12)}, label="count")
    assert [(e.label, e.policy["k"]) for e, _ in grid.candidates(decoding(16))] == [("count", 4), ("count", 12)]
    assert [e.policy["k"] for e, _ in grid.candidates(decoding(16, 8))] == [4]
    assert [e.policy["k"] for e, _ in grid.candidates(decoding(16, "adaptive"))] == [4, 12]
    ((clone, _),) = RuleGrid(policy=HOUSE_FULL, label="cloned").candidates(FULL)
    assert (clone.kind, clone.of) == ("clone", None)
    ((wrapped, _),) = RuleGrid(policy="factor | max_reveal:n=2", suppress_eos=True).candidates(FULL)
    assert wrapped.label == "max_reveal, EOS suppressed"
    for policy, label in (("klass", "policy"), ("house-base-full", "mine")):
        with pytest.raises(
            UnmaskError, match=f"The label '{label}' does not fit '{policy}': policy, cloned, replay are"
        ):
            RuleGrid(policy=policy, label=label).candidates(FULL)
    with pytest.raises(UnmaskError, match="A grid's settings are for a rule by its name, not for 'house-base-full'"):
        RuleGrid(policy="house-base-full", settings={"k": (1,)}).candidates(FULL)
    assert load_policy("klass").type_name == "klass"
