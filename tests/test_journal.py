"""What a kill leaves can be gone on with; other settings and a second process are refused."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.files import jsonl
from unmask.journal import Claim, Journal, Kept, Parts, check_begun

HOLD = """
import sys, time
from pathlib import Path
from unmask.journal import Claim
claim = Claim("x", Path(sys.argv[1]), "--output")
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holding(lock):
    """Another process that holds a lock file; killed with -9 at the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL


rows = st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=4)


@given(rows, rows, st.data())
def test_a_journal_goes_on_wherever_a_kill_cut_it(tmp_path_factory, before, after, data):
    journal = Journal(tmp_path_factory.mktemp("journal") / "j.jsonl")
    journal.append(before)
    content = jsonl(before).encode()
    kept = content[: data.draw(st.integers(0, len(content)), label="bytes left")]
    journal.path.write_bytes(kept)
    whole = before[: kept.count(b"\n") + (content[len(kept) :][:1] == b"\n")]  # a row may lack its newline alone
    assert journal.rows() == whole
    assert journal.path.read_bytes() == kept, "reading changes nothing"
    journal.mend()
    assert journal.path.read_bytes() == jsonl(whole).encode()
    journal.append(after)
    assert journal.rows() == whole + after


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    journal = Journal(tmp_path / "new" / "j.jsonl")
    journal.mend()
    assert journal.rows() == []
    assert not journal.path.parent.exists()
    journal.replace([{"a": 1}, {"b": "\u2028"}])
    assert journal.rows() == [{"a": 1}, {"b": "\u2028"}]


def test_a_broken_line_is_refused(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(UnmaskError, match=r"j.jsonl, line 2, is not JSON \(Expecting value at column 7\): delete the"):
        journal.rows()


def test_other_settings_are_refused():
    before = {"lr": 0.1, "blocks": [8, 16], "gone": None, "batch_size": 4, "old": 1}
    check_begun(
        "runs/a", before, {"lr": 0.1, "blocks": (8, 16), "batch_size": 5, "old": 1}, "--run", free=["batch_size"]
    )
    with pytest.raises(UnmaskError) as e:
        check_begun("runs/a", before, {"lr": 0.1, "blocks": (8,), "batch_size": 4, "old": 1}, "--run")
    assert str(e.value) == (
        "runs/a was begun with blocks = [8, 16], not [8]: resume with the same settings, or give another --run."
    )
    with pytest.raises(UnmaskError) as e:
        check_begun(
            "out", before, {"lr": 1, "blocks": [8, 16], "new": True, "batch_size": 4}, "--output", way_out="wait"
        )
    assert str(e.value) == (
        "out was begun with lr = 0.1, not 1; new = None, not True; old = 1, not None: resume with the same settings, "
        "give another --output, or wait."
    )


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with holding(lock) as other, pytest.raises(UnmaskError) as e:
        Claim("runs/a", lock, "--run")
    assert str(e.value) == (
        f"Another process (pid {other.pid} on {os.uname().nodename}) is writing runs/a: wait until it ends, stop it, "
        "or give another --run."
    )
    assert lock.exists(), "a kill leaves the file"
    with Claim("runs/a", lock, "--run"):  # but not the lock
        assert lock.read_text().startswith(f"pid {os.getpid()} on ")
    assert not lock.exists()


def test_a_process_may_claim_again_what_it_holds(tmp_path):
    lock = tmp_path / ".lock"
    first, second = Claim("a", lock, "--run"), Claim("a", lock, "--run")
    first.release()
    first.release()
    assert other_may_claim(lock) is False
    del second
    assert not lock.exists()
    assert other_may_claim(lock)


def test_a_fork_neither_has_nor_ends_the_claim(tmp_path):
    lock = tmp_path / ".lock"
    claim = Claim("a", lock, "--run")
    child = os.fork()
    if child == 0:  # pragma: no cover
        claim.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.exists()
    assert other_may_claim(lock) is False
    claim.release()
    assert other_may_claim(lock)


def test_folders_made_for_a_claim_alone_go_with_it(tmp_path):
    with Claim("a", tmp_path / "x" / "y" / ".lock", "--output"):
        assert (tmp_path / "x" / "y").exists()
    assert not (tmp_path / "x").exists()
    with Claim("a", tmp_path / "x" / "y" / ".lock", "--output"):
        (tmp_path / "x" / "kept").touch()
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["kept"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnmaskError, match=r"--output .*file cannot be written: .*file is a file"):
        Claim(tmp_path / "file", tmp_path / "file" / ".lock", "--output")


def other_may_claim(lock):
    code = (
        "import sys; from pathlib import Path; from unmask.journal import Claim; Claim('a', Path(sys.argv[1]), '--run')"
    )
    return subprocess.run([sys.executable, "-c", code, str(lock)], capture_output=True).returncode == 0


def test_the_journals_of_all_processes_are_read_as_one(tmp_path):
    for rank, rows in ((0, [(4, "a"), (0, "b")]), (2, [(1, "c")]), (11, [(3, "\u2028")])):
        Parts(tmp_path / "j[1].part", rank).mine.append({"index": i, "x": x} for i, x in rows)
    (tmp_path / "j[1].part.notes").write_text("mine\n")
    parts = Parts(tmp_path / "j[1].part")
    assert [path.name for path in parts.paths()] == ["j[1].part", "j[1].part.11", "j[1].part.2"]
    with parts.mine.path.open("a") as file:
        file.write('{"index": 5')
    kept = Kept(parts.paths(), lambda path, row: row["index"])
    assert kept.indices() == [0, 1, 3, 4]
    assert (len(kept), 5 in kept, 3 in kept) == (4, False, True)
    assert [row["x"] for row in kept.rows([3, 0, 4, 1])] == ["\u2028", "b", "a", "c"]
    with pytest.raises(TypeError):
        Kept(parts.paths(), lambda path, row: row["index"], whole=[parts.path])
    parts.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["j[1].part.notes"]
