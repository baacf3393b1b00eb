"""JSONL: one row per newline whatever its text holds, and every broken line by its number; files whole or not there."""

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError

from unmask.errors import UnmaskError
from unmask.files import Line, jsonl, read_jsonl, write_text, written_whole

SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\rg\x1ch\x1di\x1ej\nk\r\nl"
texts = st.text(st.characters(codec="utf-8") | st.sampled_from(SEPARATORS))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(st.dictionaries(texts, values, max_size=3), max_size=5)


def read(content: bytes) -> list[Line]:
    return list(read_jsonl(io.BytesIO(content)))


@given(rows, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example([{SEPARATORS: SEPARATORS}, {"lone": "\ud800"}], True, "\n", False)
def test_rows_come_back_as_they_were(rows, escaped, newline, bom):
    if escaped:
        text = jsonl(rows).replace("\n", newline)
    else:  # as other programs write it: separators of Unicode as they are
        text = "".join(json.dumps(row, ensure_ascii=False) + newline for row in rows)
    content = b"\xef\xbb\xbf" * bom + text.encode()
    expected = [Line(number, row) for number, row in enumerate(rows, 1)]
    assert read(content) == expected
    assert read(content.removesuffix(newline.encode())) == expected, "the last newline may be missing"


@given(rows.filter(bool), st.data())
def test_a_line_that_a_kill_cut_short_is_told_apart(rows, data):
    content = jsonl(rows).encode()
    last = len(jsonl(rows[-1:]))
    cut = data.draw(st.integers(1, last - 2), label="bytes left of the last line")
    *whole, end = read(content[: len(content) - last + cut])
    assert [line.value for line in whole] == rows[:-1]
    assert end.cut
    assert end.problem is not None
    broken = read(content[: len(content) - last + cut] + b"\n")[-1]
    assert broken.problem == end.problem
    assert not broken.cut, "with a newline behind it, nobody was killed"


@pytest.mark.parametrize(
    ("content", "number", "problem"),
    [
        (b'{"a": 1}\n\n{"a": ', 3, "is not JSON (Expecting value at column 7)"),
        (b'{"a": 1}{"a": 2}\n', 1, "is not JSON (Extra data at column 9)"),
        (b'{"a": 1}\r{"a": 2}\n', 1, "is not JSON (Extra data at column 10)"),
        (b'{"a": 1}\n{"a": "\xe4"}\n', 2, "is not UTF-8 text (invalid continuation byte at byte 8)"),
        ('{"a": 1}'.encode("utf-16"), 1, "is not UTF-8 text (invalid start byte at byte 1)"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "is not JSON that can be read (Exceeds the limit (4300 digits)"),
        (b"[" * 100_000, 1, "is not JSON that can be read (maximum recursion depth exceeded"),
        (b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', 2, "is not JSON (Unexpected UTF-8 BOM"),
    ],
)
def test_broken_lines_are_named(content, number, problem):
    (broken,) = [line for line in read(content) if line.problem]
    assert broken.number == number
    assert broken.problem.startswith(problem)
    assert broken.value is None


def test_lines_after_a_broken_one_are_read():
    assert [line.value for line in read(b'{"a": 1}\nnot JSON\n{"a": 2}\n')] == [{"a": 1}, None, {"a": 2}]


def test_blank_lines_count_but_are_not_given():
    assert read(b'\n \r\n{"a": 1}\n\x0c\n[]') == [Line(3, {"a": 1}), Line(5, [])]
    assert read(b"") == read(b"\xef\xbb\xbf\n") == []


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UnmaskError, match="Cannot read .*none.jsonl .No such file or directory.: give a JSONL file."):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(UnmaskError, match="Is a directory"):
        list(read_jsonl(str(tmp_path)))


def test_a_text_is_written_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "a.txt", "\ud800")
    assert (tmp_path / "new" / "a.txt").read_text() == "before"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with written_whole(tmp_path / "new" / "a") as draft:
        (draft / "kept").write_text("before")
    with pytest.raises(TypeError), written_whole(tmp_path / "new" / "a") as draft:
        (draft / "lost").write_text(None)
    assert [file.name for file in (tmp_path / "new" / "a").iterdir()] == ["kept"]
    with written_whole(tmp_path / "new" / "a") as draft:
        (draft / "other").write_text("after")
    assert [file.name for file in (tmp_path / "new" / "a").iterdir()] == ["other"], "replaced, not added to"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a"], "nothing is left beside it"


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("before")

    def write():
        with written_whole(tmp_path / "kept") as draft:
            (draft / "b.txt").write_text("half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    sentence = r"Cannot write .*kept .*No space left.*: make room there, and run the command again"
    with pytest.raises(UnmaskError, match=sentence):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "a.txt").read_text() == "before"
