"""A sweep that was made before shows which rules to clone, without trying any again."""

import json
import re

import pytest

from tests.rl.runs import config, told, trainer
from tests.rl.tasks import Short
from unmask.cli.main import main
from unmask.cli.tune import finalists_of_sweep
from unmask.errors import UnmaskError
from unmask.policies import load_policy
from unmask.policies.grids import spelt
from unmask.rl.config import TrainConfig
from unmask.rl.search import Demonstration
from unmask.rl.swept import swept
from unmask.settings import load_settings


def row(policy, block, nfe, correct, **changes):
    """A row of a sweep, as far as it is read."""
    made = {"policy": policy, "block_length": block, "nfe": nfe, "correct": correct, "kind": "rule", "model": "tiny"}
    made |= {
        "task": "short",
        "gen_length": 8,
        "split": "train",
        "suppress_eos": False,
        "stop_at_eos": False,
        "prompt": "p",
        "text": "t",
    }
    return made | changes


THRESHOLD = {"type": "confidence_threshold", "threshold": 0.5}
ROWS = [row(THRESHOLD, 4, 8, True), row(THRESHOLD, 4, 6, True)]
ROWS += [row({"type": "top_k_confidence", "k": 4}, 8, 2, index == 0) for index in range(2)]
ROWS += [row({"type": "fixed_schedule", "counts": [1, 7]}, 8, 2, False), row(THRESHOLD, 3, 1, True)]
ROWS += [row(THRESHOLD, 4, 1, True, kind="replay"), row(THRESHOLD, 4, 1, True, suppress_eos=True)]


def written(folder, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def test_its_rules_and_what_they_did(tiny, tmp_path):
    decode = config(tmp_path).decode.model_copy(update={"gen_length": 8})
    found = swept(written(tmp_path / "s"), "best:*", tiny, Short(), decode)
    assert [cell.key for cell in found] == [
        "confidence_threshold:threshold=0.5 @ 4",
        "top_k_confidence:k=4 @ 8",
        "fixed_schedule:counts=[1,7] @ 8",
    ]
    outcome = found[Demonstration("confidence_threshold:threshold=0.5", 4)]
    assert (outcome.nfe.tolist(), outcome.correct.tolist(), outcome.gen_length) == ([8, 6], [True, True], 8)
    assert len(swept(tmp_path / "s", "best:top_k_confidence", tiny, Short(), decode)) == 1
    assert all(
        spelt({"type": load_policy(cell.policy).type_name, **load_policy(cell.policy).config()}) for cell in found
    )


def test_a_run_clones_the_best_of_it_at_each_speed(tiny, tmp_path):
    speed = {"policy": {"use_speed": True}, "speeds": 3, "prompts": 6, "reward": "scale_free", "beta": (0.01, 3.0)}
    run = trainer(
        tiny,
        tmp_path / "a",
        **speed,
        gen_length=8,
        clone_rule="best:*",
        clone_keep="all",
        clone_sweep=str(written(tmp_path / "s")),
        iterations=1,
    )
    run.run()
    (line,) = (one for one in told(tmp_path / "a") if one["stage"] == "clone")
    # Slow: 1 * 7**-0.01 > 0.5 * 2**-0.01. Fast: 7**-3 < 0.5 * 2**-3.
    assert [cell["policy"].partition(":")[0] for cell in line["cells"]][::2] == [
        "confidence_threshold",
        "top_k_confidence",
    ]
    assert not (tmp_path / "a" / "search.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "rule", "message"),
    [
        (ROWS, "factor", "clone.sweep is for the best of a sweep, and clone.rule is 'factor': make it 'best:"),
        (ROWS, "best:klass", "holds no cell of best:klass in blocks that divide the policy's blocks of 8"),
        (
            [row(THRESHOLD, 4, 1, True, split="test")],
            "best:*",
            "is of test prompts, and test prompts may not choose",
        ),
        ([row(THRESHOLD, 4, 1, True, model="other")], "best:*", "is of model 'other', not 'tiny': sweep that one"),
        ([row(THRESHOLD, 4, 1, True, task="house")], "best:*", "is of task 'house', not 'short'"),
        ([row(THRESHOLD, 4, 1, True, gen_length=16)], "best:*", "is of gen_length 16, not 8"),
        ([row(THRESHOLD, 4, 1, True, config={"task": "short+easy"})], "best:*", "is of task 'short+easy', not 'short'"),
        ([{"prompt": "p"}], "best:*", "has a row without 'block_length': delete the file, or give another"),
        ([[1]], "best:*", "has a row that is no object"),
    ],
)
def test_another_sweep_is_refused(tiny, tmp_path, rows, rule, message):
    decode = config(tmp_path).decode.model_copy(update={"gen_length": 8})
    with pytest.raises(UnmaskError, match=re.escape(message)):
        swept(written(tmp_path / "s", rows), rule, tiny, Short(), decode)
    with pytest.raises(UnmaskError, match=r"holds no rows.jsonl: give the output folder of unmask sweep"):
        swept(tmp_path / "none", "best:*", tiny, Short(), decode)


def test_only_blocks_of_the_length_asked_for(tiny, tmp_path):
    decode = config(tmp_path).decode.model_copy(update={"gen_length": 8})
    found = swept(written(tmp_path / "s"), "best:*", tiny, Short(), decode, 4)
    assert {cell.block_length for cell in found} == {4}
    with pytest.raises(UnmaskError, match=r"holds no cell of best:\* in blocks of 2: sweep those"):
        swept(tmp_path / "s", "best:*", tiny, Short(), decode, 2)


def test_a_sweep_that_does_not_fit_leaves_no_folder(tiny, tmp_path):
    changes = {"clone_rule": "best:*", "clone_sweep": str(tmp_path / "none")}
    with pytest.raises(UnmaskError, match=r"holds no rows.jsonl"):
        trainer(tiny, tmp_path / "a", **changes).run()
    assert not (tmp_path / "a").exists()
    (folder := written(tmp_path / "s")).mkdir(exist_ok=True)
    begun = {**changes, "clone_sweep": str(folder), "gen_length": 8, "clone_keep": "all", "iterations": 0}
    trainer(tiny, tmp_path / "b", **begun).run()
    (folder / "rows.jsonl").unlink()
    trainer(tiny, tmp_path / "b", **begun).run(resume=True)  # which has cloned, and needs it no more
    with pytest.raises(UnmaskError, match="judged by gold answers, and task.labels is agreement: leave one out"):
        load_settings(TrainConfig, None, {"clone": {"sweep": "s"}, "task": {"labels": "agreement"}})


def test_a_real_sweep_is_read(tiny_folder, tmp_path, capsys):
    words = ["sweep", "--model", tiny_folder, "--prompts", 4, "--split", "train", "--gen-length", 8]
    grid = tmp_path / "g.toml"
    grid.write_text('[[rules]]\npolicy = "factor"\n[[rules]]\npolicy = "klass"\n')
    main([*map(str, words), "--config", str(grid), "--block-lengths", "4", "--output", str(tmp_path / "s")])
    run = [
        "clone",
        "--model",
        tiny_folder,
        "--gen-length",
        8,
        "--clone-from",
        "best:*",
        "--clone.sweep",
        tmp_path / "s",
    ]
    run += ["--clone.keep", "all", "--clone.examples", 4, "--clone.updates", 2, "--validation-prompts", 4]
    main([*map(str, run), "--run", str(tmp_path / "r")])
    (line,) = (one for one in told(tmp_path / "r") if one["stage"] == "clone")
    assert line["rule"].partition(":")[0] in ("factor", "klass")


def test_tuning_compares_with_its_rules_near_the_frontier(tiny, tmp_path):
    asked = config(tmp_path)
    asked = asked.model_copy(update={"decode": asked.decode.model_copy(update={"gen_length": 8})})
    found = finalists_of_sweep(asked, str(written(tmp_path / "s")), tiny, Short())
    assert found == [("confidence_threshold:threshold=0.5", 4), ("top_k_confidence:k=4", 8)]
