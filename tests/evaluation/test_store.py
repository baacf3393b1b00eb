"""Rows are kept as they are made; what a kill left is gone on with, and anything else is refused by its line."""

import json

import pytest

from tests.test_journal import holding
from unmask.errors import UnmaskError
from unmask.evaluation.entries import Entry, decoding, entry_key
from unmask.evaluation.store import RowStore, read_rows
from unmask.files import jsonl

SHARED = {"model": "tiny", "gen_length": 8}


def entry(label):
    settings = {"type": "top_k_confidence", "k": 1, "name": label, "weights": None}
    return Entry("policy", None, label, settings, decoding(8, stop_at_eos=True))


MADE = {"prompt": "p", "correct": True, "nfe": 4, "tokens": 8, "model": "tiny", "task": "house", "split": "test"}


def row(which, index, seed=0):
    circumstances = {"versions": {}, "hardware": "cpu", "text": "a\u2028b"}
    return {**which.columns(), "seed": seed, "index": index, **MADE, **circumstances}


A, B = entry("a"), entry("b")


def test_rows_come_back_by_entry_seed_and_prompt(tmp_path):
    store = RowStore(tmp_path / "s", SHARED)
    store.append([row(B, 1), row(A, 1)])
    store.append([row(A, 0), row(A, 0, seed=1), row(A, 1, seed=1), row(B, 0)])
    assert store.done(A) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert store.of(A, [1, 0], 2) == [row(A, 0, 1), row(A, 1, 1), row(A, 0), row(A, 1)]
    store.finish([B, A])
    assert [entry_key(r) for r in read_rows(tmp_path / "s" / "rows.jsonl")] == [B.key] * 2 + [A.key] * 4
    assert {file.name for file in (tmp_path / "s").glob("rows*")} == {"rows.jsonl"}


def test_the_rows_of_all_processes_are_put_together(tmp_path):
    first = RowStore(tmp_path, SHARED)
    second = RowStore(tmp_path, SHARED, resume=True, rank=1)  # of the same launch: it needs no claim
    first.append([row(A, 0)])
    second.append([row(A, 1)])
    first.finish([A])
    assert first.done(A) == {(0, 0), (0, 1)}


def test_a_row_cut_short_is_made_again(tmp_path):
    RowStore(tmp_path, SHARED).append([row(A, 0), row(A, 1)])
    part = tmp_path / "rows.0.jsonl"
    part.write_bytes(part.read_bytes()[:-9])
    other = tmp_path / "rows.1.jsonl"
    other.write_text(jsonl([row(A, 2)]) + '{"cut')
    store = RowStore(tmp_path, SHARED, resume=True)
    assert store.done(A) == {(0, 0), (0, 2)}
    assert other.read_text().endswith('{"cut'), "it may be another process's, which is writing"
    store.append([row(A, 1)])
    assert [r["index"] for r in read_rows(part)] == [0, 1]


def test_other_settings_are_refused(tmp_path):
    RowStore(tmp_path / "s", SHARED)
    with pytest.raises(UnmaskError, match="s holds results: pass --resume to add what is missing, or another --output"):
        RowStore(tmp_path / "s", SHARED)
    with pytest.raises(UnmaskError) as e:
        RowStore(tmp_path / "s", {**SHARED, "gen_length": 16}, resume=True)
    assert str(e.value) == (
        f"{tmp_path / 's'} was begun with gen_length = 8, not 16: resume with the same settings, or give another "
        "--output."
    )
    with pytest.raises(UnmaskError, match="Nothing to resume in .*none: start without --resume."):
        RowStore(tmp_path / "none", SHARED, resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json is not valid JSON .*: give another --output, or put the file back."),
        (b'{"model": "ti', "config.json is not valid JSON"),
        (b"\xff\xfe", "config.json is not valid JSON .'utf-8' codec"),
        (b"[]", "config.json must hold a JSON object: give another --output"),
        (b"[" * 100_000, "config.json is not valid JSON .maximum recursion"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, content, message):
    RowStore(tmp_path, SHARED)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UnmaskError, match=message):
        RowStore(tmp_path, SHARED, resume=True)
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(SHARED).encode())
    RowStore(tmp_path, SHARED, resume=True)


def test_a_second_launch_is_kept_out(tmp_path):
    with holding(tmp_path / "s" / ".lock") as other:
        for resume in (False, True):
            with pytest.raises(UnmaskError, match=f"Another process .pid {other.pid} on .* or give another --output."):
                RowStore(tmp_path / "s", SHARED, resume=resume)
            (tmp_path / "s" / "config.json").write_text(json.dumps(SHARED))
        RowStore(tmp_path / "s", SHARED, resume=True, rank=1)  # of the launch that has the claim
    RowStore(tmp_path / "s", SHARED, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl([row(A, 0)]) + "{}\n", "line 2, is no row of an evaluation .cut short, or of another version.: delete"),
        (jsonl([row(A, 0)]) + "null\n", "line 2, is no row"),
        (jsonl([{**row(A, 0), "nfe": "x"}]), r"line 1, is no row of an evaluation .nfe = 'x'.: delete the line"),
        (jsonl([{**row(A, 0), "index": -1}]), r"line 1, is no row of an evaluation .index = -1.: delete the line"),
        (jsonl([{**row(A, 0), "correct": None}]), r"line 1, is no row of an evaluation .correct = None.: delete"),
        (jsonl([{k: v for k, v in row(A, 0).items() if k != "correct"}]), "line 1, is no row of an evaluation .cut sh"),
        (jsonl([row(A, 0), row(A, 1)])[:-5], "line 2, is no row"),
        (
            "\n" + jsonl([row(A, 3), row(A, 3)]),
            "line 3, is a second row of prompt 3 and seed 0 in its entry",
        ),
    ],
)
def test_broken_rows_are_named(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UnmaskError, match=message):
        read_rows(tmp_path / "rows.jsonl")
