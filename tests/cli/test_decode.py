"""`unmask decode` on files: bad lines, what is kept, and a run that is stopped and goes on."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.cli.test_cli import run
from tests.conftest import make_tiny
from tests.test_journal import holding
from unmask.provenance import versions

RULE = ["--policy", "random_order:k=2", "--gen-length", 8]
ADAPTIVE = "adaptive:default=8,delimiters=[.]"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_file_becomes_a_file_in_its_order(capsys, tmp_path, tiny_folder):
    texts = ["hall: red?", "attic: blue gold green red?", "garage: gold red?"]
    first = {"prompt": texts[0], "id": 7, "text": "kept"}
    source = write(tmp_path / "in.jsonl", first, "", {"prompt": texts[1]}, json.dumps(texts[2]))
    argv = ["decode", "--input", source, "--model", tiny_folder, *RULE, "--seed", 3]
    code, out, err = run(capsys, *argv, "--output", tmp_path / "new" / "out.jsonl", "--batch-size", 2)
    assert (code, out) == (0, "")
    assert "3 prompts in" in err
    rows = lines(tmp_path / "new" / "out.jsonl")
    assert [row["prompt"] for row in rows] == texts
    assert [row["index"] for row in rows] == [0, 2, 3], "line numbers, from 0"
    assert rows[0]["input"] == {"id": 7, "text": "kept"}
    for row in rows:
        assert row["nfe"] == max(row["revealed_at"]) + 1
        assert row["ended"] in ("complete", "eos")
        assert len(row["tokens"]) == 8
        assert row["settings"]["policy"] == {"type": "random_order", "k": 2}
        assert row["settings"]["seed"] == 3
        assert row["settings"]["versions"] == versions()
    assert not (tmp_path / "new" / "out.jsonl.part").exists()


@pytest.mark.parametrize(
    ("flags", "block_length"),
    [([], None), (["--block-length", 8], 8), (["--block-length", ADAPTIVE], ADAPTIVE)],
)
@pytest.mark.parametrize("command", ["decode", "view"])
def test_a_block_length_is_one_word(capsys, tiny_folder, command, flags, block_length):
    argv = [command, "hall: red?", "--model", tiny_folder, "--gen-length", 16, *flags]
    if command == "view":
        assert run(capsys, *argv, "--policies", "random_order:k=8")[0] == 0
        return
    code, out, _ = run(
        capsys, *argv, "--policy", "random_order:k=8", "--jsonl", "--no-stop-at-eos", "--temperature", 0.5
    )
    assert code == 0
    settings = json.loads(out)["settings"]
    assert settings["block_length"] == block_length
    assert (settings["gen_length"], settings["stop_at_eos"], settings["temperature"]) == (16, False, 0.5)


def test_stdin_becomes_stdout(capsys, monkeypatch, tiny_folder):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"question": "hall: red?"}\n')))
    code, out, _ = run(capsys, "decode", "--input", "-", "--column", "question", "--model", tiny_folder, *RULE)
    assert code == 0
    assert json.loads(out)["prompt"] == "hall: red?"
    code, out, _ = run(capsys, "decode", "hall: red?", "attic: gold?", "--jsonl", "--model", tiny_folder, *RULE)
    assert {json.loads(line)["index"] for line in out.splitlines()} == {0, 1}


def test_bad_lines_are_named_and_the_others_finished(capsys, tmp_path, tiny_folder):
    long = "hall: " + " ".join(["red"] * 95) + "?"
    bad = ["not json", {"promt": "hall: red?"}, "[1]", {"prompt": "What is 12 * 7?"}, {"prompt": long}, {"prompt": " "}]
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"}, *bad, {"prompt": "attic: gold?"})
    argv = ["decode", "--input", source, "--output", tmp_path / "out.jsonl", "--model", tiny_folder, *RULE]
    code, _, err = run(capsys, *argv)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert f"{source}, line 2 is not JSON (Expecting value at column 1)" in last
    assert "; line 3 has no text under 'prompt': did you mean 'promt'?; line 4 is neither" in last
    assert "; and so 3 more, to line 7: mend it and pass --resume; the others are done." in last
    first = {row["index"]: row for row in lines(tmp_path / "out.jsonl")}
    assert set(first) == {0, 7}
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "exists: pass --resume to add what it lacks, or another --output." in err
    write(source, {"prompt": "hall: red?"}, *[{"prompt": "garage: gold red?"}] * 6, {"prompt": "attic: gold?"})
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 0
    rows = lines(tmp_path / "out.jsonl")
    assert [row["index"] for row in rows] == list(range(8))
    assert rows[0] == first[0], "what was done stays as it was"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("not json", "line 1 is not JSON"),
        ({"promt": "hall: red?"}, "line 1 has no text under 'prompt': did you mean 'promt'?: mend it"),
        ({"prompt": 7}, "line 1 has no text under 'prompt': mend it"),
        ('{"prompt": "hall: \\ud800"}', "line 1 cannot be decoded (The prompt 'hall: \\ud800' is no text"),
        ("[1]", "line 1 is neither a JSON object nor a string: mend it"),
        (
            {"prompt": "What is 12 * 7?"},
            "line 1 cannot be decoded (The prompt 'What is 12 * 7?' has words",
        ),
        ({"prompt": " "}, "line 1 cannot be decoded (its prompt is empty: give it at least one token)"),
    ],
)
def test_each_kind_of_bad_line(capsys, tmp_path, tiny_folder, row, message):
    source = write(tmp_path / "in.jsonl", row)
    code, out, err = run(capsys, "decode", "--input", source, "--model", tiny_folder, *RULE)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--input", "none.jsonl"], "No input file at none.jsonl: give a JSONL file, or - for stdin."),
        (["hall: red?", "--input", "none.jsonl"], "Give prompts as arguments or by --input, not both."),
        (["hall: red?", "--resume"], "--resume needs --output"),
        (["hall: red?", "--block-length", "3"], "block_length 3 does not divide gen_length 8"),
        (["hall: red?", "--block-length", "some"], "Unknown block_length 'some'"),
        (["hall: red?", "--temperature", "-1"], "temperature = '-1' (input should be greater than or equal to 0)."),
        (["hall: red?", "--policy", "top_k_confidence:k=0"], "k = '0' (input should be greater than or equal to 1"),
        (["hall: red?", "--policy", "factor | temprature:tau=1"], "did you mean 'temperature'?"),
        (["hall: red?", "--policy", "factr"], "For a rule, did you mean 'factor'?"),
    ],
)
def test_bad_flags_are_one_sentence(capsys, tiny_folder, argv, message):
    code, _, err = run(capsys, "decode", *argv, "--model", tiny_folder, "--gen-length", 8)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_bad_settings_leave_nothing_behind(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"})
    argv = ["decode", "--input", source, "--output", tmp_path / "new" / "out.jsonl", "--model", tiny_folder]
    assert run(capsys, *argv, "--gen-length", 8, "--batch-size", 0)[0] == 2
    assert not (tmp_path / "new").exists()
    code, _, err = run(capsys, *argv, "--steps")
    assert code == 2
    assert "--steps shows prompts given as arguments" in err


def test_separators_of_unicode_do_not_break_rows(capsys, tmp_path, tiny_folder):
    """As `json.dumps(..., ensure_ascii=False)` writes texts: str.splitlines() would cut them."""
    prompts = ["hall: red\u2028blue?", "attic: gold\x85green?", "hall: red\u2029gold?"]
    source = tmp_path / "in.jsonl"
    text = "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\r\n" for prompt in prompts)
    source.write_bytes(b"\xef\xbb\xbf" + text.encode())
    output = tmp_path / "out.jsonl"
    assert run(capsys, "decode", "--input", source, "--output", output, "--model", tiny_folder, *RULE)[0] == 0
    assert [(row["index"], row["prompt"]) for row in lines(output)] == list(enumerate(prompts))


def test_a_broken_part_is_not_written_over(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"})
    part = write(tmp_path / "out.jsonl.part", "my notes", "{}")
    argv = ["decode", "--input", source, "--output", tmp_path / "out.jsonl", "--model", tiny_folder, *RULE, "--resume"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "out.jsonl.part is no output of unmask decode: give another --output." in err
    assert part.read_text() == "my notes\n{}\n"


def test_a_second_process_is_kept_out(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"})
    output = tmp_path / "out.jsonl"
    argv = ["decode", "--input", source, "--output", output, "--model", tiny_folder, *RULE]
    with holding(tmp_path / ".out.jsonl.lock") as other:
        for more in ([], ["--resume"]):
            code, _, err = run(capsys, *argv, *more)
            assert code == 2
            assert f"Another process (pid {other.pid} on " in err
            assert f"is writing {output}: wait until it ends, stop it, or give another --output." in err
            assert not output.exists()
    assert run(capsys, *argv)[0] == 0


def test_an_empty_file_and_one_that_is_not_text_are_refused(capsys, tmp_path, tiny_folder):
    code, _, err = run(capsys, "decode", "--input", write(tmp_path / "in.jsonl"), "--model", tiny_folder, *RULE)
    assert code == 2
    assert "holds no prompt: give one JSON object a line, with its text under 'prompt'." in err
    (tmp_path / "in.jsonl").write_bytes(b"\xff\xfe\x00")
    code, _, err = run(capsys, "decode", "--input", tmp_path / "in.jsonl", "--model", tiny_folder, *RULE)
    assert code == 2
    assert "is not UTF-8 text" in err


def test_resuming_something_else_is_refused(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"})
    argv = ["decode", "--input", source, "--output", tmp_path / "out.jsonl", "--model", tiny_folder, *RULE, "--resume"]
    assert run(capsys, *argv)[0] == 0, "--resume with nothing done yet begins"
    code, _, err = run(capsys, *argv, "--seed", 1)
    assert code == 2
    assert "was begun with seed = 0, not 1: resume with the same settings, or give another --output." in err
    write(source, {"prompt": "attic: gold?"})
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert f"was begun with another prompt on line 1 of {source}" in err


def test_finished_prompts_that_the_input_lacks_are_not_dropped(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"}, {"prompt": "attic: gold?"})
    output = tmp_path / "out.jsonl"
    argv = ["decode", "--input", source, "--output", output, "--model", tiny_folder, *RULE]
    assert run(capsys, *argv)[0] == 0
    before = output.read_text()
    write(source, {"prompt": "hall: red?"})
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 2
    assert f"has finished the prompt on line 2, which {source} does not hold: give the whole input again, or" in err
    assert output.read_text() == before


def test_no_other_file_is_written_over(capsys, tmp_path, tiny_folder):
    source = write(tmp_path / "in.jsonl", {"prompt": "hall: red?"})
    argv = ["decode", "--input", source, "--model", tiny_folder, *RULE, "--resume", "--output"]
    before = (tmp_path / "in.jsonl").read_text()
    code, _, err = run(capsys, *argv, source)
    assert code == 2
    assert "is the input: give another --output." in err
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    code, _, err = run(capsys, *argv, other)
    assert code == 2
    assert "notes.txt is no output of unmask decode: give another --output." in err
    assert (tmp_path / "in.jsonl").read_text() == before
    assert other.read_text() == "my notes\n"


def broken_by_gold(folder):
    """A dLLM whose logits turn NaN on one word only."""
    model = make_tiny()
    word = model.encode("gold")[0]
    head = model.network.lm_head.decoder
    head.weight, head.bias = (torch.nn.Parameter(p.detach().clone()) for p in (head.weight, head.bias))
    model.network.config.tie_word_embeddings = False
    with torch.no_grad():
        model.network.base_model.embeddings.word_embeddings.weight[word] = 3e38  # finite: it can be loaded
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_nan_logits_lose_nothing_that_was_done(capsys, tmp_path):
    prompts = ["hall: red red?", "hall: blue blue?", "hall: gold?"]
    source = write(tmp_path / "in.jsonl", *({"prompt": prompt} for prompt in prompts))
    output = tmp_path / "out.jsonl"
    argv = ["decode", "--input", source, "--output", output, "--batch-size", 1]
    argv += ["--model", broken_by_gold(tmp_path / "m")]
    code, _, err = run(capsys, *argv, "--policy", "random_order:k=8", "--gen-length", 8)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert "returned NaN logits: load it with dtype float32" in last
    assert f"2 of 3 prompts are kept in {output}.part; --resume goes on from there." in last
    assert [row["index"] for row in lines(tmp_path / "out.jsonl.part")] == [0, 1]
    assert not output.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_same_result(capsys, tmp_path, tiny_folder, number):
    source = write(tmp_path / "in.jsonl", *({"prompt": f"hall: {'red ' * (i % 5 + 1)}blue?"} for i in range(40)))
    argv = ["decode", "--input", source, "--model", tiny_folder, "--policy", "random_order", "--gen-length", 40]
    argv += ["--batch-size", 4, "--temperature", 1.0, "--seed", 5, "--output"]
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    program = [sys.executable, "-c", "from unmask.cli.main import main; main()", *map(str, argv), output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment) as running:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == (130 if number == signal.SIGINT else -number), err
    done = part.read_text().count("\n")
    assert 0 < done < 40
    assert not output.exists()
    if number == signal.SIGINT:
        assert f"{done} of 40 prompts are kept in" in err
    code, _, err = run(capsys, *argv, output)
    assert code == 2
    assert f"{part} holds what a stopped run has finished: pass --resume to go on, or delete it." in err
    with part.open("a") as file:
        file.write('{"prompt": "cut sho')  # what a kill may leave
    assert run(capsys, *argv, output, "--resume")[0] == 0
    assert run(capsys, *argv, tmp_path / "whole.jsonl")[0] == 0
    resumed, whole = ([{**row, "seconds": 0} for row in lines(path)] for path in (output, tmp_path / "whole.jsonl"))
    assert resumed == whole
    assert len(whole) == 40


def test_a_policy_of_other_blocks_or_another_cache_says_so(capsys):
    argv = ["decode", "hall: red?", "--policy", "house-base-block8"]
    code, _, err = run(capsys, *argv, "--block-length", 16, "--cache", "dual")
    assert code == 0
    assert "trained and measured in blocks of 8, and decodes in blocks of 16 under the dual cache here" in err
    assert "decodes in full diffusion here" in run(capsys, *argv)[2]
    assert "measured" not in run(capsys, *argv, "--block-length", 8)[2]
    assert "measured" not in run(capsys, "decode", "hall: red?", "--policy", "factor", "--cache", "dual")[2]
