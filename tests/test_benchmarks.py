"""The benchmarks import, and the claims of docs/reproduction.md are judged as they say."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from unmask.evaluation.differences import Outcomes

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_it_imports(name):
    import_module(f"benchmarks.{name}")


def outcomes(accuracy, nfe):
    right = (torch.arange(200) < 200 * accuracy).float().expand(3, 200)
    return Outcomes(right, torch.full((3, 200), float(nfe)))


def made(policies, rules):
    """Evidence of what each policy and each threshold in blocks reaches."""
    from benchmarks.claims import Evidence

    from unmask.evaluation.entries import candidate, decoding

    evidence = object.__new__(Evidence)
    evidence.policy = lambda study, name: outcomes(*policies[name])
    evidence.stopped = lambda study, name: 2 if name == "expert steering" else 0
    results = [
        (
            candidate(f"confidence_threshold:threshold={threshold}", decoding(32, 8))[0],
            [{"seed": 0, "correct": i < 200 * accuracy, "nfe": nfe} for i in range(200)],
        )
        for threshold, (accuracy, nfe) in rules.items()
    ]
    random, _ = candidate("random_order:k=4", decoding(32, 8))
    results.append((random, [{"seed": 0, "correct": i < 20, "nfe": 8} for i in range(200)]))
    evidence.house = evidence.ledger = evidence.twice = results
    return evidence


def test_the_honest_baseline():
    from benchmarks.claims import honest
    from benchmarks.verdicts import FAILS, HOLDS

    (claim,) = honest(made({}, {0.9: (1.0, 14), 0.7: (1.0, 8), 0.3: (0.5, 4)}))
    assert claim.verdict == HOLDS
    assert "43% fewer NFE" in claim.ours
    (claim,) = honest(made({}, {0.9: (1.0, 14), 0.7: (0.9, 8)}))
    assert claim.verdict == FAILS


def test_limits_are_judged():
    from benchmarks.claims import limits
    from benchmarks.verdicts import FAILS, HOLDS, PARTLY

    policies = {"paper's advantages, alpha 0.3": (0.9, 6.3), "paper's advantages, alpha 1": (0.9, 6.4)}
    policies |= {f"scaled, alpha {a:g}": (0.9, 12 - a) for a in (0, 0.3, 1, 3, 10)}
    policies["paper's advantages, alpha 10"] = (0.9, 6.5)
    coarse, unstable = limits(made(policies, {}))
    assert (coarse.verdict, unstable.verdict) == (HOLDS, HOLDS)
    assert "each faster than the one before: yes" in coarse.ours
    assert "2 of 3 seeds collapsed" in unstable.ours
    coarse, _ = limits(made({**policies, "paper's advantages, alpha 1": (0.9, 5.0)}, {}))
    assert coarse.verdict == FAILS
    coarse, _ = limits(made({**policies, "paper's advantages, alpha 10": (0.9, 4.6)}, {}))
    assert coarse.verdict == PARTLY


def test_ablations_are_judged_by_their_reward():
    from benchmarks.claims import ablations
    from benchmarks.verdicts import FAILS, HOLDS

    same = (0.95, 6.5)
    policies = {"scaled, alpha 1": same, "scaled, alpha 10": (0.7, 5), "additive, alpha 1": same}
    policies |= {"DPLS": same, "top 8 confidences": same, "hidden states": (0.6, 9), "without t": same}
    policies |= {"without m": (0.95, 20), "additive, alpha 10": (0.0, 1)}
    verdicts = {claim.paper: claim.verdict for claim in ablations(made(policies, {}))}
    assert verdicts["Bernoulli ~ DPLS"] == HOLDS
    assert verdicts["hidden states: worse"] == HOLDS
    assert verdicts["without t: worse"] == FAILS
    assert verdicts["without m: worse"] == HOLDS, "as accurate, and three times as slow"
    assert verdicts["the additive reward collapses to unmasking everything at once"] == HOLDS


def test_the_threshold_that_is_not_as_fast():
    from benchmarks.claims import in_blocks
    from benchmarks.verdicts import FAILS, HOLDS, PARTLY

    rules = {0.9: (1.0, 14), 0.5: (0.3, 7)}
    policies = {
        "warm start, alpha 10": (0.7, 5),
        "ledger, blocks, alpha 10": (0.2, 5),
        "warm start, alpha 0.3": (0.9, 9),
    }
    first, second, middle = in_blocks(made(policies, rules))
    assert middle.verdict == PARTLY, "far above random, and not about the same as the threshold"
    assert "no threshold is so fast (the fastest: 30.0%" in first.ours
    assert (first.verdict, second.verdict) == (HOLDS, FAILS)


def teardown_module():
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_the_ways_to_split_positions_into_passes():
    from benchmarks.ceilings import splits

    assert splits(3, 1) == [[0, 0, 0]]
    assert splits(3, 2) == [[0, 1, 1], [0, 0, 1]]
    assert splits(3, 3) == [[0, 1, 2]]
    assert len(splits(8, 4)) == 35  # 7 over 3


def test_no_choice_is_above_the_most():
    """Three positions to mark: two together are right in 8 of 9 cases; one by one takes 2, 3 or 3 passes."""
    from benchmarks.ceilings import most

    assert most("mark", 2, 1) == pytest.approx(1 / 2, abs=1e-3)
    assert most("mark", 3, 1) == pytest.approx(4 / 9, abs=1e-3)
    assert most("mark", 3, 2) == pytest.approx(8 / 9, abs=1e-3)
    assert most("mark", 3, 8 / 3) == pytest.approx(1, abs=1e-3)
    assert most("mark", 3, 2.5) < 0.99
    assert most("replace", 3, 2) == most("mark", 3, 2), "a new letter is a mark"
    assert most("shuffle", 3, 1) == pytest.approx(6 / 27, abs=1e-3)
    assert most("shuffle", 3, 2) == pytest.approx(2 / 3, abs=1e-3), "two of three, then one: 6 of 9"
    assert most("shuffle", 3, 3) == pytest.approx(1)
    assert most("shuffle", 8, 4) > 0.273, "one may give up where two are alike, and spend the passes elsewhere"


def test_what_a_blind_policy_does_tells_nothing_of_the_problem():
    """It is drawn, so that prompts differ; but its probabilities at a step and a mask are the same for all of them."""
    from benchmarks.puzzles import Setting, information, region

    from unmask.policies.base import StochasticPolicy
    from unmask.policies.transformer import TransformerConfig, TransformerPolicy
    from unmask.tasks.auto import load_task
    from unmask.testing import ExactModel

    task = load_task("lists:items=4,letters=6")
    one = Setting(task, ExactModel(task), task.examples("test", 40))
    torch.manual_seed(0)
    blind = TransformerPolicy(TransformerConfig(reads="nothing")).eval()

    class Sure(TransformerPolicy):
        """Reveals what is certain, and holds back the rest."""

        def logits(self, observation):
            return torch.where(observation.confidence[..., 0] > 0.99, 12.0, -12.0)

    sure = Sure(TransformerConfig())
    assert isinstance(sure, StochasticPolicy)
    assert information(one, sure, region(one)) > 0.5
    assert information(one, blind, region(one)) < 0.15, "what is left is its own past: which positions it has drawn"


def test_a_step_of_everything_goes_on_and_its_time_adds_up(tmp_path, monkeypatch, capsys):
    everything = import_module("benchmarks.everything")
    monkeypatch.setattr(everything, "KEPT", tmp_path / "kept")
    script = tmp_path / "step.py"
    script.write_text("import sys; print('a table'); sys.exit(int(sys.argv[1]))")

    class Step(everything.Step):
        command = property(lambda self: [sys.executable, str(script), *self.words])

    with pytest.raises(SystemExit, match="table failed; the same command goes on there. What it printed: .*/table.txt"):
        everything.run(Step("table", "step", ["3"]))
    first = json.loads((tmp_path / "kept" / "table.json").read_text())
    assert not first["done"]
    everything.run(Step("table", "step", ["0"]))
    second = json.loads((tmp_path / "kept" / "table.json").read_text())
    assert second["done"]
    assert second["seconds"] > first["seconds"] > 0
    assert (tmp_path / "kept" / "table.txt").read_text() == "a table\n"
    everything.run(Step("table", "step", ["3"]))  # done, so not run
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "runs" / "tuning" / "lists" / "seed-1" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"stage": "grpo", "iteration": 1, "seconds": 100.0}\n{"stage": "note", "iteration": 1}\n' * 2)
    everything.times([Step("table", "step", []), Step("other", "step", [], everything.tuned("lists"))], 2)
    table, other, total = capsys.readouterr().out.splitlines()[-3:]
    assert "not done" not in table
    assert other.split(None, 1) == ["other", "1:40  1 trainings, 3:20 of one core  (not done)"]
    assert total.split()[0] == "all"


def test_every_step_names_studies_that_there_are():
    everything, studies = import_module("benchmarks.everything"), import_module("benchmarks.studies")
    for step in (step for steps in everything.parts(2).values() for step in steps if step.script == "tuning"):
        words = list(step.words)
        named = words[words.index("--studies") + 1 :]
        named = named[: named.index("--jobs")] if "--jobs" in named else named
        assert set(named) <= set(studies.STUDIES), step.name


def judged(low, high):
    from benchmarks.verdicts import above, alike, below, not_below

    from unmask.evaluation.intervals import Interval

    gap = Interval((low + high) / 2, low, high)
    return above(gap), not_below(gap, 0.02), below(gap, 0.02), alike(gap, 0.02)


def test_claims_are_judged_by_intervals():
    yes, no, open_ = "holds", "does not hold", "inconclusive"
    assert judged(0.01, 0.03) == (yes, yes, no, no)
    assert judged(0.01, 0.015) == (yes, yes, no, yes), "small, and as good as 0"
    assert judged(-0.01, 0.01) == (open_, yes, no, yes)
    assert judged(-0.01, 0.03) == (open_, yes, no, open_)
    assert judged(-0.03, 0.01) == (open_, open_, open_, open_)
    assert judged(-0.03, -0.01) == (no, open_, yes, no)
    assert judged(-0.05, -0.03) == (no, no, yes, no)


def test_verdicts_whose_runs_are_not_there_stay():
    from benchmarks.puzzle_claims import HEAD, Judged, merged, section

    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    kept = merged([], page)
    assert section(kept) == page[page.index(HEAD) :]
    anew = Judged(kept[0].claim, kept[0].where.replace("3 seeds", "1 seeds"), "new", "holds")
    assert [one for one in merged([anew], page) if one not in kept] == [anew]
    assert len(merged([anew], page)) == len(kept)


def test_a_policy_that_is_fast_and_useless_is_above_no_rule():
    from benchmarks.puzzle_claims import _against

    from unmask.evaluation.entries import candidate, decoding

    entry, _ = candidate("random_order", decoding(8))
    slow = [(entry, Outcomes(torch.ones(1, 200), torch.full((1, 200), 6.0)))]
    policy = [[Outcomes(torch.zeros(1, 200), torch.full((1, 200), 2.0))]]
    words, verdict = _against(policy, slow, 2.0)
    assert verdict == "does not hold"
    assert "no such rule is as fast (the fastest 100.0 @ 6.00)" in words


def test_a_policy_that_is_halved_is_calibrated_as_it_has_become(tmp_path, monkeypatch):
    """What ships is float16; its table is of those weights, and of prompts that chose no checkpoint."""
    from benchmarks import tuning as tunings

    from unmask import load_policy
    from unmask.cli.main import main
    from unmask.cli.tune import tuning
    from unmask.hub import bundled, read_weights

    draft = tmp_path / "draft"
    whole = load_policy("house-base-full")
    whole.save(draft)
    assert {one.dtype for one in read_weights(draft / "model.safetensors").values()} == {torch.float32}
    config = tuning(ROOT / "configs" / "tune" / "house-base-full.toml", {"task": {"validation_prompts": 256}})
    monkeypatch.setattr(tunings, "unmask", lambda *words: main(list(map(str, words))))  # in this process
    tunings.halve(draft, config, 20, tmp_path / "rows")
    weights = read_weights(draft / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.float16}
    shipped = read_weights(bundled("policies")["house-base-full"] / "model.safetensors")
    assert all(torch.equal(one, shipped[name]) for name, one in weights.items())
    (table,) = load_policy(draft).calibrations
    assert table.prompts == 20
    assert table.weights == whole.calibrations[0].weights


def test_what_is_there_already_is_no_pace_for_the_rest(monkeypatch, capsys):
    studies = import_module("benchmarks.studies")
    clock = iter((0.0, 100.0, 200.0))
    monkeypatch.setattr(studies.time, "monotonic", lambda: next(clock))
    progress = studies.Progress(5)
    for job, seconds in (("kept", 0.2), ("made", 100.0), ("made too", 100.0)):
        progress.tell(job, seconds)
    # One in 100 s and three to go, then two in 200 s and two to go.
    assert capsys.readouterr().out.splitlines() == [
        "1/5  kept",
        "2/5  made, about 5:00 left",
        "3/5  made too, about 3:20 left",
    ]


def test_what_was_begun_goes_on(tmp_path, monkeypatch):
    """A clone that was killed, and a transfer, which has a folder for each of its targets."""
    paper, ran = import_module("benchmarks.paper"), []
    monkeypatch.setattr(paper, "unmask", lambda *words: ran.append(words))
    flags = paper.STUDIES["alpha"]["scaled, alpha 1"]
    for place in (paper.clone_of(tmp_path, flags, 0), tmp_path / "transfer" / "target"):
        place.mkdir(parents=True)
        (place / "config.json").touch()
    paper.prepare(tmp_path, flags, 0)
    paper.prepare(tmp_path, flags, 1)
    paper.command("transfer", tmp_path / "transfer")
    assert ["--resume" in words for words in ran] == [True, False, True]
