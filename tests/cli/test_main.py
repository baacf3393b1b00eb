"""How a command ends: bad input 2, a stop 130, each with one sentence."""

import pytest

from tests.cli.test_cli import run
from tests.test_journal import holding
from unmask.cli import main as entry
from unmask.errors import Stopped


def test_a_stop_that_nobody_caught_ends_with_130(capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise Stopped("Stopped after step 3; go on with --resume.")

    monkeypatch.setattr(entry, "app", stopped)
    assert run(capsys, "train") == (130, "", "Stopped after step 3; go on with --resume.\n")


@pytest.mark.parametrize(
    ("argv", "lock", "flag"),
    [
        (["train", "--iterations", 1, "--validation-prompts", 2], "o/.lock", "--run"),
        (["clone", "--clone-from", "factor", "--validation-prompts", 2], "o/.lock", "--run"),
        (["eval", "--policies", "factor", "--prompts", 2], "o/.lock", "--output"),
        (["pretrain", "--layers", 1, "--steps", 1], ".o.lock", "--output"),
        (["decode", "hall: red?"], ".o.lock", "--output"),
    ],
)
def test_a_second_process_is_refused_and_after_a_kill_the_next_begins(capsys, tmp_path, tiny_folder, argv, lock, flag):
    argv = [*argv, flag, tmp_path / "o", *([] if argv[0] == "pretrain" else ["--model", tiny_folder])]
    with holding(tmp_path / lock) as other:
        code, _, err = run(capsys, *argv)
    assert code == 2
    assert f"Another process (pid {other.pid} on " in err
    assert f") is writing {tmp_path / 'o'}: wait until it ends, stop it, or give another {flag}." in err
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [".o.lock" if "/" not in lock else ".lock"]
    if argv[0] in ("decode", "eval"):
        assert run(capsys, *argv)[0] == 0
        assert not (tmp_path / lock).exists()
