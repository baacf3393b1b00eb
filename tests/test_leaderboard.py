"""The leaderboard on a small slice: what it says of a family follows from rows, and the page holds what it writes."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.store import RowStore
from unmask.models.auto import load_model
from unmask.pareto import Point, aup, hypervolume
from unmask.tasks.auto import load_task

ROOT = Path(__file__).parents[1]
RULES = ["confidence_threshold:threshold=0.9", "confidence_threshold:threshold=0.5", "top_k_confidence:k=2"]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="module")
def slice_of_house(tmp_path_factory):
    """Three rules and the bundled policy on 12 prompts, as the commands of the page write them."""
    out = tmp_path_factory.mktemp("tuning")
    model, task = load_model("house-base"), load_task("house")
    setup = Setup(model, task, task.examples("test", 12))
    policy = [decoding(32).model_copy(update={"speed": speed}) for speed in (0.0, 1.0)]
    for target, cells in (
        ("rules/house", [candidate(rule, decoding(32, 8)) for rule in RULES]),
        ("house/seed-0/held-out/house", [candidate("house-base-full", decode) for decode in policy]),
    ):
        store = RowStore(out / target, {})
        for entry, one in cells:
            store.append(evaluate(setup, entry, one))
        store.finish([entry for entry, _ in cells])
    return out


def test_a_family_by_its_rows(slice_of_house):
    from benchmarks.curves import results
    from benchmarks.leaderboard import lines, table

    found = lines(slice_of_house, "house", [0])
    assert {line.name for line in found} == {"threshold", "top-k", "**policy of every speed**"}
    assert [line.aup.mean for line in found] == sorted((line.aup.mean for line in found), reverse=True)
    cells = [rows for entry, rows in results(slice_of_house / "rules" / "house") if entry.label == "top-k"]
    (rows,) = cells
    right, nfe = (sum(row[name] for row in rows) / 12 for name in ("correct", "nfe"))
    tokens = sum(row["tokens"] for row in rows) / 12
    (line,) = [line for line in found if line.name == "top-k"]
    assert line.volume.mean == pytest.approx(100 * hypervolume([Point(nfe, right)], 32))
    assert line.aup.mean == pytest.approx(aup([(tokens / nfe, right)], best=1.0))
    assert line.aup.low <= line.aup.mean <= line.aup.high
    text = table("house", found, 12)
    assert "| top-k |" in text
    assert "python benchmarks/tuning.py rules --studies house" in text


def test_ones_own_policy_and_dllm(slice_of_house, tmp_path):
    """Decoded prompts under a name of one's own are a row without a command; a family of one's own is a table."""
    from benchmarks.leaderboard import ABOUT, lines, merged, table

    shutil.copytree(slice_of_house, tmp_path / "out")
    shutil.copytree(tmp_path / "out" / "house", tmp_path / "out" / "mine")
    found = lines(tmp_path / "out", "house", [0])
    assert {line.name: line.study for line in found if line.name.startswith("**")} == {
        "**policy of every speed**": "house",
        "**policy of every speed, mine**": None,
    }
    assert "mine**" in table("house", found, 12)
    page = merged({"house-small": "## house-small\n\nnew\n"}, f"{ABOUT}\n## lists\n\nold\n")
    assert page == f"{ABOUT}\n## lists\n\nold\n\n## house-small\n\nnew\n"
    assert merged({}, page) == page, "it stays"


def test_tables_of_families_that_were_not_run_stay():
    from benchmarks.leaderboard import ABOUT, merged

    page = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert merged({}, page) == page
    first = merged({"lists": "## lists\n\nnew\n"}, f"{ABOUT}\n## lists\n\nold\n\n## sudoku\n\nkept\n")
    assert first == f"{ABOUT}\n## lists\n\nnew\n\n## sudoku\n\nkept\n"


def test_seeds_widen_an_interval():
    from benchmarks.leaderboard import over_seeds

    from unmask.evaluation.intervals import Interval

    alike = [Interval(50.0, 49.0, 51.0)] * 3
    assert over_seeds(alike) == Interval(50.0, 49.0, 51.0)
    apart = over_seeds([Interval(mean, mean - 1, mean + 1) for mean in (40.0, 50.0, 60.0)])
    half = 4.303 * torch.tensor([40.0, 50.0, 60.0]).std().item() / 3**0.5
    assert (apart.mean, apart.high) == (50.0, pytest.approx(50 + half, abs=0.01))


def test_the_page_names_rules_and_commands_that_there_are():
    from benchmarks.studies import PLACES, STUDIES

    page = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    families = re.findall(r"^## ([a-z-]+)$", page, re.MULTILINE)
    assert families
    assert {*families} <= {*PLACES}
    for study in re.findall(r'train --studies "([^"]+)"', page):
        assert study in STUDIES
    from unmask.policies.registry import tuned_rules

    known = {rule.family() for rule in tuned_rules().values()}
    named = re.findall(r"^\| ([^*|]+?) \|", page, re.MULTILINE)
    shown = {name.removesuffix(", EOS suppressed") for name in named if name not in ("method", "---")}
    assert shown
    assert shown <= known
