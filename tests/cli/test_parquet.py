"""`unmask decode` from Parquet to Parquet: the rows of JSONL, columns that keep their types, bounded memory."""

import datetime
import json

import pytest

from tests.cli.test_cli import run
from tests.cli.test_decode import RULE, lines, write
from tests.cli.test_shared import of
from unmask.cli.parquet import ROWS, ParquetPrompts
from unmask.cli.prompts import Job, decode_all
from unmask.decoding.options import DecodeConfig
from unmask.journal import Journal, Kept
from unmask.policies.auto import load_policy
from unmask.rl.processes import Processes

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"hall: {'red ' * (i % 3 + 1)}blue?" for i in range(7)]


def table_file(path, **columns):
    parquet.write_table(arrow.table(columns), path, row_group_size=3)
    return path


def test_the_rows_are_those_of_jsonl_and_columns_keep_their_types(capsys, tmp_path, tiny_folder):
    days = [datetime.date(2026, 1, i + 1) for i in range(7)]
    source = table_file(tmp_path / "in.parquet", id=range(7), prompt=TEXTS, day=days, raw=[b"\xff"] * 7)
    texts = write(tmp_path / "in.jsonl", *({"prompt": text} for text in TEXTS))
    argv = ["decode", "--model", tiny_folder, *RULE, "--seed", 3]
    assert run(capsys, *argv, "--input", texts, "--output", tmp_path / "out.jsonl")[0] == 0
    code, out, err = run(capsys, *argv, "--input", source, "--output", tmp_path / "out.parquet")
    assert (code, out) == (0, "")
    assert "7 prompts in" in err
    found = parquet.read_table(tmp_path / "out.parquet")
    expected = of(lines(tmp_path / "out.jsonl"))
    told = json.loads(found.schema.metadata[b"unmask"])
    assert told == {"settings": expected[0]["settings"], "rows": 7}
    rows = [{**row, "input": {}, "settings": told["settings"]} for row in found.to_pylist()]
    assert of(rows) == expected
    assert [row["input"] for row in found.to_pylist()] == [
        {"id": i, "day": day, "raw": b"\xff"} for i, day in enumerate(days)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "in.parquet", "out.jsonl", "out.parquet"]
    code, _, err = run(capsys, *argv, "--input", source, "--output", tmp_path / "out.parquet")
    assert (code, "exists: pass --resume" in err) == (2, True)
    code, _, err = run(capsys, *argv, "--input", source, "--output", tmp_path / "out.parquet", "--resume")
    assert (code, "All prompts are in" in err) == (0, True), "as when a run is killed at its very end"
    code, _, err = run(capsys, *argv[:-1], 4, "--input", source, "--output", tmp_path / "out.parquet", "--resume")
    assert (code, "was begun with seed = 3, not 4" in err) == (2, True)
    table_file(source, prompt=TEXTS[:6])
    code, _, err = run(capsys, *argv, "--input", source, "--output", tmp_path / "out.parquet", "--resume")
    assert (code, "is of an input of 7 rows, and" in err) == (2, True)


def test_nulls_are_named_the_others_done_and_added_to(capsys, tmp_path, tiny_folder):
    source = table_file(tmp_path / "in.parquet", text=[*TEXTS[:2], None, "What is 12 * 7?", *TEXTS[4:]])
    argv = ["decode", "--input", source, "--column", "text", "--model", tiny_folder, *RULE]
    argv += ["--output", tmp_path / "out.parquet"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "row 3 has no text under 'text' (null); row 4 cannot be decoded" in err.splitlines()[-1]
    first = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["index"] for row in first] == [0, 1, 4, 5, 6]
    table_file(source, text=TEXTS)
    assert run(capsys, *argv, "--resume")[0] == 0
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(7))
    assert [rows[i] for i in (0, 1, 4, 5, 6)] == first, "what was done stays as it was"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("kind", ["messages", "ids", "words"])
def test_prompts_may_be_chats_token_ids_and_dictionaries(tmp_path, tiny, kind):
    prompts = {
        "messages": arrow.array([[{"role": "user", "content": text, "name": None}] for text in TEXTS]),
        "ids": arrow.array([tiny.encode(text) for text in TEXTS], arrow.list_(arrow.int32())),
        "words": arrow.array(TEXTS).dictionary_encode(),
    }[kind]
    if kind == "messages":
        fields = [(name, arrow.string()) for name in ("role", "content", "name")]
        prompts = prompts.cast(arrow.list_(arrow.struct(fields)))
    source = ParquetPrompts(str(table_file(tmp_path / "in.parquet", prompt=prompts)), "prompt")
    first = next(iter(source)).prompt
    if kind == "messages":
        assert first == [{"role": "user", "content": TEXTS[0]}], "what a message lacks is not there"
        return
    job = Job(tiny, load_policy("random_order:k=2"), source, False, DecodeConfig(gen_length=8), 0, {})
    decode_all(job, tmp_path / "out.parquet", Processes())
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == prompts.to_pylist()
    assert all(len(row["tokens"]) == 8 for row in rows)


def broken(path):
    table_file(path, prompt=TEXTS)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: table_file(path, promt=TEXTS), "has no column 'prompt': did you mean 'promt'? Give --column."),
        (lambda path: table_file(path, prompt=[1.5]), "of {} holds double: give one of texts, messages (role and"),
        (lambda path: table_file(path, prompt=[[{"content": "a"}]]), "holds list<element: struct<content: string>>"),
        (lambda path: table_file(path, prompt=arrow.array([], arrow.string())), "{} holds no rows: give another file."),
        (broken, "Cannot read {} (Parquet magic bytes not found in footer"),
        (lambda path: path.write_text("my notes"), "Cannot read {} (Parquet"),
        (lambda path: None, "No input file at {}: give a Parquet or JSONL file."),
    ],
)
def test_bad_input_is_one_sentence(capsys, tmp_path, tiny_folder, make, message):
    source = tmp_path / "in.parquet"
    make(source)
    argv = ["decode", "--input", source, "--output", tmp_path / "new" / "out.parquet", "--model", tiny_folder, *RULE]
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message.format(source) in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_both_ends_are_parquet_or_neither(capsys, tmp_path, tiny_folder):
    source = table_file(tmp_path / "in.parquet", prompt=TEXTS)
    for argv in (["--input", source], ["--input", source, "--output", tmp_path / "out.jsonl"]):
        code, _, err = run(capsys, "decode", *argv, "--model", tiny_folder)
        assert (code, "is Parquet: give an --output that ends in .parquet, too." in err) == (2, True)
    code, _, err = run(capsys, "decode", "hall: red?", "--output", tmp_path / "out.parquet", "--model", tiny_folder)
    assert (code, "is Parquet: give an --input that ends in .parquet, too." in err) == (2, True)
    (tmp_path / "other.parquet").write_bytes(source.read_bytes())
    argv = ["decode", "--input", source, "--output", tmp_path / "other.parquet", "--resume", "--model", tiny_folder]
    code, _, err = run(capsys, *argv, *RULE)
    assert (code, "other.parquet is no output of unmask decode: give another --output." in err) == (2, True)
    assert (tmp_path / "other.parquet").read_bytes() == source.read_bytes()


def test_files_that_do_not_fit_are_read_and_written_a_part_at_a_time(tmp_path):
    n = 20 * ROWS
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = [f"{i} " + "x" * 1000 for i in range(n)]
    parquet.write_table(arrow.table({"prompt": texts, "more": texts}), source, row_group_size=n, compression="none")
    made = {"nfe": 1, "positions": 1, "full_passes": 1, "equivalents": 1.0, "seconds": 0.1, "ended": "complete"}
    rows = ({"index": i, "prompt": "", "text": "a", "tokens": [1], "revealed_at": [0], **made} for i in range(n))
    Journal(tmp_path / "part").append(rows)
    prompts = ParquetPrompts(str(source), "prompt")
    kept = Kept([tmp_path / "part"], lambda path, row: row["index"])
    pool = arrow.default_memory_pool()
    before = pool.bytes_allocated()
    most = max(pool.bytes_allocated() for _ in prompts) - before
    prompts.write(output, kept, {})
    assert most < source.stat().st_size / 6
    assert parquet.ParquetFile(output).metadata.num_rows == n
    with parquet.ParquetFile(output) as file:
        assert file.read_row_group(7, ["prompt", "index"]).to_pylist()[0]["prompt"].startswith(f"{7 * ROWS} ")


def test_a_finished_output_that_lacks_rows_is_filled_and_one_of_other_prompts_is_refused(capsys, tmp_path, tiny_folder):
    argv = ["decode", "--model", tiny_folder, "--gen-length", 8, "--input", tmp_path / "in.parquet"]
    argv += ["--output", tmp_path / "out.parquet"]
    table_file(tmp_path / "in.parquet", prompt=arrow.array([None, None], arrow.string()))
    assert run(capsys, *argv)[0] == 2
    table_file(tmp_path / "in.parquet", prompt=TEXTS[:2])
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 0, err
    assert parquet.read_table(tmp_path / "out.parquet").column("prompt").to_pylist() == TEXTS[:2]
    assert "All prompts are in" in " ".join(run(capsys, *argv, "--resume")[2].split())
    table_file(tmp_path / "in.parquet", prompt=TEXTS[1::-1])
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 2
    assert "was begun with another prompt in row 1: give another --output." in " ".join(err.split())


def test_columns_that_could_not_be_written_are_refused_before_anything_is_decoded(capsys, tmp_path, tiny_folder):
    twice = arrow.Table.from_arrays(
        [arrow.array(["hall: red?"]), arrow.array([1]), arrow.array([2])], ["prompt", "x", "x"]
    )
    view = arrow.table({"prompt": ["hall: red?"], "x": arrow.array(["a"], arrow.string_view())})
    for made, message in (
        (twice, "has several columns 'x': rename all but one"),
        (view, "holds string_view, which cannot"),
    ):
        parquet.write_table(made, tmp_path / "in.parquet")
        code, _, err = run(
            capsys,
            "decode",
            "--model",
            tiny_folder,
            "--input",
            tmp_path / "in.parquet",
            "--output",
            tmp_path / "o.parquet",
        )
        assert code == 2
        assert message in " ".join(err.split())
