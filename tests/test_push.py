"""Policies on the Hub: the real client, against a small Hub on this machine."""

import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from tests.hub_stand_in import FOREIGN, TOKEN, a_hub
from unmask.cli.main import main
from unmask.errors import UnmaskError
from unmask.evaluation.sharing import prepare
from unmask.policies.auto import load_policy

FAILS = """
def fails(call):
    try:
        call()
    except UnmaskError as e:
        return str(e)
    raise AssertionError("nothing was refused")
"""
SESSION = f"""
import json, sys, torch, unmask
from unmask.errors import UnmaskError
from unmask.evaluation.sharing import prepare
from unmask.hub import push_folder
{FAILS}
own = unmask.load_policy("house-base-full")
first = own.push_to_hub("me/policy", private=True, card="# A policy")
rule = unmask.load_policy("confidence_threshold:threshold=0.7").push_to_hub("me/policy", revision="rule")
second = unmask.load_policy("house-base-both").push_to_hub("me/policy", commit_message="Another")
found = unmask.load_policy("me/policy", revision=first.oid)
again = unmask.load_policy("me/policy")
told = {{
    "same": all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), found.state_dict().values())),
    "calibrated": found.speed_for(target_nfe=4) == own.speed_for(target_nfe=4),
    "newest": again.calibrations == unmask.load_policy("house-base-both").calibrations,
    "rule": unmask.load_policy("me/policy@rule").config(),
    "wrapped": unmask.load_policy(f"me/policy@{{first.oid}} | max_reveal:n=2").type_name,
    "revision": fails(lambda: unmask.load_policy("me/policy", revision="nothing")),
    "repo": fails(lambda: unmask.load_policy("me/nothing")),
    "other": fails(lambda: own.push_to_hub("other/policy")),
    "name": fails(lambda: own.push_to_hub("a/b/c")),
    "token": fails(lambda: own.push_to_hub("me/policy", token="wrong")),
    "foreign": fails(lambda: own.push_to_hub("me/policy", token="{FOREIGN}")),
    "url": second.commit_url,
}}
print(json.dumps(told))
"""


def run(code, address, home, **env):
    env = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_TOKEN": TOKEN, **env}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", code] if isinstance(code, str) else [sys.executable, "-m", "unmask.cli", *code]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_what_is_pushed_is_loaded_at_each_revision(tmp_path):
    with a_hub() as (address, hub):
        done = run(SESSION, address, tmp_path)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["same"]
        assert told["calibrated"]
        assert told["newest"]
        assert told["rule"] == {"threshold": 0.7}
        assert told["wrapped"] == "max_reveal"
        assert told["revision"] == "The Hub's me/policy has no revision 'nothing': give a branch, a tag or a commit."
        assert told["repo"].startswith("No policy 'me/nothing': it is no local folder, no Hub id that can be reached")
        assert told["other"] == "The token may not write to other/policy: use one that may, or a repo of your own."
        assert told["foreign"] == "The token may not write to me/policy: use one that may, or a repo of your own."
        assert told["name"] == "'a/b/c' is no name of a repo: give user/name."
        assert told["token"] == "The Hub wants a token that may write: run `hf auth login`, or set HF_TOKEN."
        assert told["url"].startswith(f"{address}/me/policy/commit/")
        assert hub.private == {"me/policy": True}


def test_the_command_pushes_with_a_card_and_says_how_to_load(tmp_path):
    pytest.importorskip("matplotlib")
    with a_hub() as (address, hub):
        done = run(["push", "house-base-block8", "me/fast"], address, tmp_path)
        assert done.returncode == 0, done.stderr
        _, files = hub.files("me/fast", "main")
        assert sorted(files) == ["README.md", "calibration.json", "config.json", "curve.png", "model.safetensors"]
        assert f'unmask.load_policy("me/fast", revision="{hub.branches["me/fast"]["main"]}")' in done.stdout
        assert files["curve.png"].startswith(b"\x89PNG")


@pytest.mark.slow  # the client tries again for a while
def test_a_hub_that_is_gone_or_wants_a_token_is_told(tmp_path):
    with a_hub() as (address, _):
        refused = run(["push", "house-base-block8", "me/fast"], address, tmp_path, HF_TOKEN="")
        assert (refused.returncode, "hf auth login" in " ".join(refused.stderr.split())) == (2, True)
    gone = run(["push", "house-base-block8", "me/fast"], address, tmp_path)
    assert (gone.returncode, gone.stdout.count("\n")) == (2, 5)
    assert "The Hub cannot be reached" in " ".join(gone.stderr.split())


def test_the_card_says_what_the_policy_does_and_how_to_use_it(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    load_policy("house-base-full").save(tmp_path / "p", "# Mine\n\nA policy.\n\n## Use it\n\nOf an older card.\n")
    main(["push", str(tmp_path / "p"), "me/mine", "--dry-run"])
    card = ModelCard(capsys.readouterr().out.partition("model.safetensors\n")[2])
    assert card.data.library_name == "unmask"
    assert "unmasking-policy" in card.data.tags
    assert "| 0.00 | 5.68 | 99.8, 98.6 to 100.0 |" in card.text
    assert card.text.count("## Use it") == 1
    assert 'unmask.load_policy("me/mine")' in card.text
    assert "unmask export --engine sglang me/mine OUT" in card.text
    assert "(curve.png)" in card.text
    assert "Of an older card" not in card.text


def test_a_runs_own_picture_goes_with_its_policy_and_tables_of_other_weights_do_not(tmp_path):
    pytest.importorskip("matplotlib")
    policy = load_policy("house-base-full")
    policy.save(tmp_path / "run" / "best")
    file = tmp_path / "run" / "best" / "calibration.json"
    tables = json.loads(file.read_text())["tables"]
    file.write_text(json.dumps({"tables": [*tables, {**tables[0], "task": "other", "weights": "0" * 12}]}))
    (tmp_path / "run" / "curve.png").write_bytes(b"the rules, too")
    prepare(tmp_path / "run" / "best", "me/mine", tmp_path / "out")
    assert (tmp_path / "out" / "curve.png").read_bytes() == b"the rules, too"
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["tables"] == tables


def test_what_the_user_wrote_stays_on_the_card(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "p"
    load_policy("house-base-full").save(
        folder, "# Mine\n\n### Use it\n\nAs mine.\n\n## Use it\n\nOld.\n\n## Limits\n\nMany.\n"
    )
    main(["push", str(folder), "me/mine", "--dry-run"])
    card = capsys.readouterr().out
    assert "### Use it\n\nAs mine.\n" in card
    assert "## Limits\n\nMany." in card
    assert "Old." not in card
    for broken in (b"---\n: [\n---\n# A\n", b"---\n- a\n---\n# A\n", b"\xff\xfe"):
        (folder / "README.md").write_bytes(broken)
        with pytest.raises(SystemExit):
            main(["push", str(folder), "me/mine", "--dry-run"])
        assert "is no model card" in " ".join(capsys.readouterr().err.split()), broken


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "me/x"], "There is no folder nowhere: give that of a policy, or of the run that made it."),
        (["house-base-full", "x"], "'x' names no user: give user/name."),
        (["house-base-full", "../x"], "'../x' is no name of a repo: give user/name."),
        (["house-base-full", "me/x@main"], "'me/x@main' is no name of a repo: give user/name."),
        (["house-base-full", "me/x"], "HF_HUB_OFFLINE is set, which forbids all uploads: unset it."),
    ],
)
def test_what_cannot_be_pushed_is_refused(argv, message, capsys):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as ended:
        main(["push", *argv])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_revision_is_the_hubs(tmp_path):
    load_policy("confidence_threshold").save(tmp_path)
    for name in (tmp_path, str(tmp_path), {"type": "random_order"}, None):
        with pytest.raises(UnmaskError, match="revision is for policies of the Hub"):
            load_policy(name, revision="main")
