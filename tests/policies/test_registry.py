"""Kinds of policy are found in the modules of `unmask.policies`: a rule is one file."""

import sys
from pathlib import Path

import pytest

from unmask import policies
from unmask.errors import UnmaskError
from unmask.policies.base import Rule
from unmask.policies.grids import combinations, grid
from unmask.policies.registry import class_of, make_policy, policy_types, tuned_rules


def test_every_file_of_a_rule_is_found():
    files = Path(policies.__file__).parent.glob("*.py")
    named = sum(
        line.startswith("    type_name: ClassVar[str] = ") for file in files for line in file.read_text().splitlines()
    )
    assert len(policy_types()) == named
    assert list(policy_types()) == sorted(policy_types())
    for type_name, found in policy_types().items():
        assert found.type_name == type_name
        assert getattr(policies, found.__name__) is found


def test_a_rule_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "leftmost.py").write_text(
        "from typing import ClassVar\n"
        "from unmask.policies.base import Rule, rule\n"
        "from unmask.policies.ranking import topk_positions\n"
        "@rule\n"
        "class Leftmost(Rule):\n"
        '    type_name: ClassVar[str] = "leftmost"\n'
        '    grid = {"k": (1, 3)}\n'
        "    k: int = 1\n"
        "    def select(self, observation):\n"
        "        return topk_positions(observation.noise * 0, observation.selectable, self.k)\n"
    )
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    policy_types.cache_clear()
    try:
        assert class_of("leftmost") is policies.Leftmost
        assert policies.Leftmost.family() == "leftmost"
        assert grid("leftmost") == ["leftmost:k=1", "leftmost:k=3"]
        assert policies.load_policy("leftmost:k=3") == policies.Leftmost(3)
    finally:
        monkeypatch.undo()
        policy_types.cache_clear()
        sys.modules.pop("unmask.policies.leftmost")
    assert "leftmost" not in policy_types()


RULE = """
from typing import ClassVar
from unmask.policies import Rule, rule
@rule
class Mine(Rule):
    type_name: ClassVar[str] = "{name}"
    def select(self, observation):
        return observation.selectable
"""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"one": RULE.format(name="mine"), "two": RULE.format(name="mine")}, "'mine', Mine in .*one.py and .*two.py: "),
        ({"one": RULE.format(name="factor")}, "'factor', Factor in .*factor.py and Mine in .*one.py: rename one."),
        ({"one": "x: Grid = {}"}, r"Cannot import .*one.py \(NameError: name 'Grid' is not defined\): mend the file"),
        ({"one": "def"}, r"Cannot import .*one.py \(SyntaxError: .*line 1\)\): mend the file, or move it away."),
    ],
)
def test_a_file_that_cannot_be_taken_is_named(tmp_path, monkeypatch, files, message):
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    policy_types.cache_clear()
    try:
        with pytest.raises(UnmaskError, match=message):
            policies.load_policy("confidence_threshold")
    finally:
        monkeypatch.undo()
        policy_types.cache_clear()
        for name in files:
            sys.modules.pop(f"unmask.policies.{name}", None)


@pytest.mark.unchecked
def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnmaskError, match=r"Unknown policy type 'factr' in here: did you mean 'factor'\?"):
        make_policy({"type": "factr"}, "here")
    with pytest.raises(UnmaskError, match="Unknown policy type None in here"):
        make_policy({}, "here")
    with pytest.raises(AttributeError, match="module 'unmask.policies' has no attribute 'Factr'"):
        _ = policies.Factr
    with pytest.raises(UnmaskError, match="No grid of settings for 'fixed_schedul': known: 'confidence_threshold', "):
        grid("fixed_schedul")


def test_grids_hold_settings_that_their_rules_take():
    for type_name, found in tuned_rules().items():
        cells = grid(type_name)
        assert len(set(cells)) == len(cells) > 1
        for spec in cells:
            assert isinstance(policies.load_policy(spec), found)
    assert combinations("factor", {}) == ["factor"]
    assert combinations("x", {"a": (1, 2), "b": ([1, 2],)}) == ["x:a=1,b=[1,2]", "x:a=2,b=[1,2]"]


def test_families_and_what_a_block_cuts_short():
    assert policies.Factor.family() == "factor"
    families = {name: found.family() for name, found in policy_types().items() if issubclass(found, Rule)}
    assert (
        families.items()
        >= {
            "confidence_threshold": "threshold",
            "entropy_bound": "EB",
            "fixed_schedule": "fixed schedule",
            "klass": "KLASS",
            "margin_threshold": "margin",
            "margin_top_k": "margin top-k",
            "random_order": "random",
            "rising_threshold": "rising threshold",
            "top_k_confidence": "top-k",
        }.items()
    )
    for name in ("margin_top_k", "random_order", "top_k_confidence"):
        assert class_of(name)(4).distinct_within(4)
        assert not class_of(name)(5).distinct_within(4)
    assert policies.ConfidenceThreshold(0.9).distinct_within(1)
