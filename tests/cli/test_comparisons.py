"""`unmask sweep`, `transfer` and `report`: grids, controls, what is refused, and one page of it all."""

import json
import shutil
from itertools import accumulate

import pytest

from tests.cli.test_cli import run
from tests.one_speed import HOUSE_BLOCK8, HOUSE_FULL
from tests.policies.test_speed import conditioned
from unmask.hub import write_origin

SMALL = ["--prompts", 8, "--seeds", 2, "--gen-length", 16]


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def cells(folder):
    return {(row["label"], json.dumps(row["policy"]), row["block_length"]) for row in rows(folder)}


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_folder):
    """A sweep with a learned policy out of a training run."""
    from unmask.cli.main import main

    folder = tmp_path_factory.mktemp("swept")
    for part, name in (("best", HOUSE_FULL), ("start", HOUSE_BLOCK8)):
        shutil.copytree(name, folder / "run" / part)
    write_origin(folder / "run" / "best", folder / "run" / "start")
    grid = write(
        folder / "grid.toml",
        f"""
model = "{tiny_folder}"
policies = ["{folder / "run" / "best"}"]
betas = [0.5]
block_lengths = [8]
[[rules]]
policy = "confidence_threshold"
settings.threshold = [0.1, 0.5]
[[rules]]
policy = "klass"
settings.threshold = [0.5, 0.9]
settings.kl = [0.01, 0.1]
block_lengths = [16]
[[rules]]
policy = "top_k_confidence"
label = "count"
settings.k = [4, 12]
block_lengths = [8, 16]
""",
    )
    main(["sweep", "--config", str(grid), *map(str, SMALL), "--output", str(folder / "out")])
    return folder


def test_a_grid_is_every_combination(swept):
    found = cells(swept / "out")
    labels = [label for label, _, _ in found]
    assert labels.count("threshold") == 2
    assert labels.count("KLASS") == 4
    assert {length for label, _, length in found if label == "KLASS"} == {16}
    counts = {(json.loads(policy)["k"], length) for label, policy, length in found if label == "count"}
    assert counts == {(4, 8), (4, 16), (12, 16)}, "12 positions of a block of 8 are no entry of their own"
    assert {length for label, _, length in found if label == "policy"} == {8}


def test_a_learned_policy_has_its_controls(swept):
    found = rows(swept / "out")
    learned = {row["policy"]["name"] for row in found if row["label"] == "policy"}
    assert learned == {f"{swept / 'run' / 'best'}{more}" for more in ("", " | beta_scaling:beta=0.5")}
    assert {row["policy"]["name"] for row in found if row["label"] == "cloned"} == {str(swept / "run" / "start")}
    (weights,) = {row["policy"]["weights"] for row in found if row["kind"] == "policy"}
    assert {row["of"] for row in found if row["kind"] == "clone"} == {weights}
    replays = [row for row in found if row["kind"] == "replay"]
    assert len({row["of"] for row in replays}) == 2, "each is of one policy, settings and all"
    assert {row["policy"]["name"] for row in replays} == {f"pace of {name}" for name in learned}
    own = [
        row for row in found if row["label"] == "policy" and row["block_length"] == 8 and "beta" not in row["policy"]
    ]
    mean = sum(row["nfe"] for row in own) / len(own)
    replay = next(r for r in replays if r["block_length"] == 8 and "beta" not in r["policy"]["name"])
    assert replay["nfe"] == max(2, round(mean)), "its average pace, and a step for each block at least"
    assert sum(replay["reveals"]) == 16
    due, done = (list(accumulate(replay[k] if k == "reveals" else replay["policy"][k])) for k in ("counts", "reveals"))
    assert all(a == b or (a < b and a == 8) for a, b in zip(done, due, strict=True)), "or all that a block lets"


def test_rows_hold_trajectories_of_the_first_prompts(swept):
    kept = [row for row in rows(swept / "out") if "trajectory" in row]
    assert {(row["seed"], row["index"]) for row in kept} == {(0, i) for i in range(4)}
    for row in kept:
        shown = row["trajectory"]
        assert [shown["revealed_at"].count(step) for step in range(row["nfe"])] == row["reveals"]
        assert all(0 < c <= 1 for c, step in zip(shown["confidence"], shown["revealed_at"], strict=True) if step >= 0)
        assert (
            "".join(w for w, end in zip(shown["words"], shown["end"], strict=True) if not end).strip()
            == row["text"].strip()
        )


def test_a_sweep_goes_on(capsys, swept, tiny_folder):
    argv = ["sweep", "--config", swept / "grid.toml", *SMALL, "--output", swept / "out"]
    before = (swept / "out" / "rows.jsonl").read_text()
    code, out, _ = run(capsys, *argv, "--resume")
    assert code == 0
    for control in ("cloned, at", "replay, at"):
        assert control in " ".join(out.split()), "against the policy that it is of"
    assert (swept / "out" / "rows.jsonl").read_text() == before
    assert "frontier over its whole grid" in out
    assert "unmask report" in out
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "holds results: pass --resume" in err


def test_all_rules_by_default(capsys, tiny_folder):
    code, out, _ = run(capsys, "sweep", "--dry-run", "--block-lengths", 32, "--block-lengths", 8)
    assert code == 0
    for rule in (
        "threshold",
        "EB",
        "factor",
        "KLASS",
        "margin",
        "random",
        "rising threshold",
        "top-k",
        "EOS suppressed",
    ):
        assert f"  {rule}  block" in out or f", {rule}  block" in out
    assert int(out.split("Would evaluate ")[1].split()[0]) >= 60


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ('[[rules]]\npolicy = "confidence_treshold"', "did you mean 'confidence_threshold'?"),
        ('[[rules]]\npolicy = "klas"\nsettings.kl = [1]', "did you mean 'klass'?"),
        ('[[rules]]\npolicy = "klass"\nsettings.kll = [1]', "Unknown key 'kll'"),
        ('[[rules]]\npolicy = "house-base-full"\nsettings.k = [1]', "A grid's settings are for a rule by its name"),
        ('policies = ["klass"]\n[[rules]]\npolicy = "klass"\nblock_lengths = [5]', "5 does not divide"),
        ("[[rules]]\nname = 3", "rules.0.policy is missing"),
        ('[[rules]]\npolicy = "klass"\nlabel = "policy"', "The label 'policy' does not fit 'klass'"),
        ('[[rules]]\npolicy = "house-base-full"\nlabel = "mine"', "are for learned policies, and those have no other."),
    ],
)
def test_a_bad_grid_is_refused(capsys, tmp_path, grid, sentence):
    code, _, err = run(capsys, "sweep", "--config", write(tmp_path / "g.toml", grid), "--output", tmp_path / "out")
    assert code == 2
    assert sentence in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_report_of_it_all(capsys, tmp_path, swept):
    pytest.importorskip("plotly")
    (tmp_path / "train").mkdir()
    lines = [
        {"stage": s, "iteration": i, "reward": 0.1 * i, "correct": 0.5, "nfe": 9.0}
        for s in ("grpo", "validation")
        for i in (1, 2)
    ]
    write(tmp_path / "train" / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run(capsys, "report", swept / "out", tmp_path / "train", "-o", tmp_path / "r.html", "--figures")
    assert code == 0, err
    page = (tmp_path / "r.html").read_text()
    assert '"overview": ["validation correct", "validation nfe", "reward"]' in page
    assert "pace of" in page
    assert (tmp_path / "r.png").stat().st_size > 10_000
    assert len(page) < 8e6


def copied(swept, tmp_path, change=lambda row: row):
    shutil.copytree(swept / "out", tmp_path / "other")
    lines = [json.dumps(change(row)) for row in rows(swept / "out")]
    write(tmp_path / "other" / "rows.jsonl", "\n".join(lines) + "\n")
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gen_length": 32}, "gen_length 16 and"),
        ({"config": {"task": "ledger"}}, "task 'house' and"),
        ({"model": "another"}, "model"),
        ({"stop_at_eos": True}, "stop_at_eos False and"),
        ({}, "both hold the entry"),
    ],
)
def test_what_is_not_comparable_is_not_in_one_plot(capsys, tmp_path, swept, change, sentence):
    other = copied(swept, tmp_path, lambda row: {**row, **change})
    code, _, err = run(capsys, "report", swept / "out", other, "-o", tmp_path / "r.html")
    assert code == 2
    assert sentence in err
    assert "report them apart" in err or "give one" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "r.html").exists()


def test_other_prompts_and_missing_rows_are_named(capsys, tmp_path, swept):
    other = copied(
        swept, tmp_path, lambda row: {**row, "label": "mine", "prompt": "x" if row["index"] == 3 else row["prompt"]}
    )
    code, _, err = run(capsys, "report", swept / "out", other)
    assert code == 2
    assert "has another prompt 3 than the results before it" in err
    whole = (swept / "out" / "rows.jsonl").read_text().splitlines(keepends=True)
    write(other / "rows.jsonl", "".join(whole[:-1]))
    code, _, err = run(capsys, "report", other)
    assert code == 2
    assert "evaluate all entries on the same prompts, and --resume what was stopped" in err
    write(other / "rows.jsonl", "".join(whole)[:-30])
    code, _, err = run(capsys, "report", other)
    assert code == 2
    assert "is no row of an evaluation (cut short" in err
    write(other / "rows.jsonl", "".join([*whole, whole[0]]))
    code, _, err = run(capsys, "report", other)
    assert code == 2
    assert "is a second row of prompt 0 and seed 0" in err


def test_folders_without_results_are_refused(capsys, tmp_path, swept):
    for argv, sentence in (
        ([], "Nothing to report"),
        ([tmp_path / "nowhere"], "is no folder"),
        ([tmp_path], "holds no results"),
    ):
        code, _, err = run(capsys, "report", *argv)
        assert code == 2
        assert sentence in err
    other = copied(swept, tmp_path)
    write(other / "rows.0.jsonl", "")
    code, _, err = run(capsys, "report", other)
    assert code == 2
    assert "has not ended: go on with --resume" in err


TRANSFER = """
output = "{out}"
prompts = 8
[policies]
mine = ["{full}", "{block8}"]
rule = "confidence_threshold:threshold=0.5"
[[targets]]
name = "here, full"
model = "{model}"
gen_length = 16
native = "{full}"
[[targets]]
name = "there, blocks"
model = "{model}"
task = "house-long"
gen_length = 16
block_length = 8
native = ["{block8}"]
policies = ["mine"]
"""


PAIR = {"full": HOUSE_FULL, "block8": HOUSE_BLOCK8}


def test_transfer(capsys, tmp_path, tiny_folder):
    config = write(
        tmp_path / "t.toml",
        TRANSFER.format(out=tmp_path / "out", model=tiny_folder, **PAIR),
    )
    code, out, err = run(capsys, "transfer", "--config", config)
    assert code == 0, err
    assert "trained there" in out
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())["transfers"]
    assert [(one["policy"], one["target"]) for one in found] == [
        ("trained there", "here, full"),
        ("mine", "here, full"),
        ("rule", "here, full"),
        ("trained there", "there, blocks"),
        ("mine", "there, blocks"),
    ]
    assert found[0]["loss"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found[0]["native"]
    assert len(rows(tmp_path / "out" / "here--full")) == 8 * 3, "two learned policies, one of them native, and a rule"
    by_name = {row["policy"].get("name"): [] for row in rows(tmp_path / "out" / "here--full")}
    for row in rows(tmp_path / "out" / "here--full"):
        by_name[row["policy"].get("name")].append(row["nfe"])
    means = {name: sum(nfe) / len(nfe) for name, nfe in by_name.items()}
    both = (means[HOUSE_FULL] + means[HOUSE_BLOCK8]) / 2
    assert found[1]["slower"]["mean"] == pytest.approx(both - means[HOUSE_FULL], abs=1e-4)
    code, _, err = run(capsys, "transfer", "--config", config)
    assert code == 2
    assert "--resume" in err
    assert run(capsys, "transfer", "--config", config, "--resume")[0] == 0
    pytest.importorskip("plotly")
    assert run(capsys, "report", tmp_path / "out", "-o", tmp_path / "r.html")[0] == 0
    assert "there, blocks" in (tmp_path / "r.html").read_text()


def test_policies_with_a_speed_are_transferred_at_each(capsys, tmp_path, tiny_folder):
    for name in ("a", "b"):
        conditioned().save(tmp_path / name)
    text = f"""
output = "{tmp_path / "out"}"
prompts = 4
speeds = [0.0, 1.0]
[policies]
other = "{tmp_path / "b"}"
rule = "top_k_confidence:k=2"
[[targets]]
name = "here"
model = "{tiny_folder}"
gen_length = 8
native = "{tmp_path / "a"}"
"""
    code, _, err = run(capsys, "transfer", "--config", write(tmp_path / "t.toml", text))
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())["transfers"]
    assert [(one["policy"], one["native"]) for one in found] == [
        ("trained there at speed 0", True),
        ("trained there at speed 1", True),
        ("other at speed 0", False),
        ("other at speed 1", False),
        ("rule", False),
    ]
    assert found[3]["slower"]["mean"] == 0.0, "against the native at the same speed, whose weights are equal"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "give a --config with [policies] and [[targets]]"),
        ('[policies]\na = "klass"\n[[targets]]\nname = "x"\nnative = "klass"\npolicies = ["b"]', "unknown policy 'b'"),
        ('[policies]\na = "klass"\n' + 2 * '[[targets]]\nname = "x"\nnative = "klass"\n', "Two targets are called 'x'"),
        ('[policies]\n"trained there too" = "klass"\n[[targets]]\nname = "x"\nnative = "klass"', "another name"),
        ('[policies]\na = "klas"\n[[targets]]\nname = "x"\nnative = "klass"', "did you mean 'klass'?"),
        ('[policies]\na = []\n[[targets]]\nname = "x"\nnative = "klass"', "policies.a"),
    ],
)
def test_a_bad_transfer_is_refused(capsys, tmp_path, text, sentence):
    code, _, err = run(capsys, "transfer", "--config", write(tmp_path / "t.toml", text), "--output", tmp_path / "out")
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "out").exists()
