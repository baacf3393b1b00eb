"""`unmask view`: what it prints without a terminal, what it draws on one, what it refuses."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

import unmask
from tests.cli.test_cli import run
from unmask.cli.drawing import Run, animate, frame, paint, panel, region, table, write_steps
from unmask.decoding.decode import stream
from unmask.decoding.options import DecodeConfig
from unmask.decoding.trajectory import Recorder, Trajectory
from unmask.tasks.auto import load_task

THRESHOLD = "confidence_threshold:threshold=0.9"
FOUR = ["--policies", "random_order:k=4"]


def decoded(name, prompt, correct=None, gen_length=32):
    model, recorder = unmask.load_model(), Recorder([0])
    policy = unmask.load_policy(name)
    config = DecodeConfig(gen_length=gen_length)
    (batch,) = stream(model, policy, [model.encode(prompt)], config, callback=recorder)
    (done,) = batch.completions()
    return Run(name, recorder.trajectory(model, prompt, done), correct)


@pytest.fixture(scope="module")
def runs():
    """A fast one that is right and a slow one that is wrong."""
    prompt = load_task().examples("test", 1)[0].prompt
    return [decoded("house-base-full", prompt, True), decoded(THRESHOLD, prompt, False)]


def made_up(words, revealed_at, **changes):
    """A trajectory of words, `None` standing for EOS."""
    t = Trajectory(
        prompt="p",
        words=[word or "" for word in words],
        end=[word is None for word in words],
        revealed_at=revealed_at,
        confidence=[0.5] * len(words),
        nfe=max(revealed_at) + 1,
        text="".join(word or "" for word in words),
        ended="complete",
    )
    return Run("made up", replace(t, **changes), None)


def terminal(width, height=40):
    return Console(
        record=True, force_terminal=True, width=width, height=height, file=io.StringIO(), color_system="truecolor"
    )


def drawn(to, renderable):
    to.print(renderable)
    return to.export_text(styles=False)


def plain_steps(out, name):
    """The lines of a policy: step -> text."""
    lines = out.split(f"\n{name}\n")[1].split("\n\n")[0].splitlines()
    return {line[:3].strip(): line[5:] for line in lines if re.match(r" *(\d+|end)  ", line)}


def test_help_explains_every_flag(capsys):
    code, out, _ = run(capsys, "view", "--help")
    assert code == 0
    assert "Example: unmask view --task gsm8k --index 3" in " ".join(out.split())
    for flag in ("--policies", "--colour-by", "--speed", "--html", "--index", "--model", "--task", "--gen-length"):
        assert flag in out


def test_by_default_a_prompt_of_the_bundled_task_under_two_policies(capsys):
    code, out, _ = run(capsys, "view")
    assert code == 0
    example = load_task().examples("test", 1)[0]
    assert f"{example.prompt}   (gold answer: {example.answer})" in out
    for name in ("house-base-full", THRESHOLD):
        expected = decoded(name, example.prompt)
        steps = plain_steps(out, name)
        shown = {str(at + 1) for at in expected.trajectory.revealed_at if at >= 0}
        assert set(steps) == shown | {"end"}, "a line for each step that revealed something, and the end"
        assert steps["end"].startswith(expected.trajectory.text)
        row = next(line for line in out.split("per NFE")[1].splitlines() if line.startswith(name))
        tokens = expected.tokens()
        verdict = "right" if load_task().verify(example, expected.trajectory.text) else "wrong"
        ended = {"complete": "all revealed", "eos": "at EOS"}[expected.trajectory.ended]
        assert row.removeprefix(name).split() == [
            *(str(expected.nfe), str(tokens), f"{tokens / expected.nfe:.1f}", *ended.split(), verdict)
        ]


def test_a_prompt_of_ones_own_has_no_verdict(capsys, tiny_folder):
    code, out, _ = run(capsys, "view", "hall: red blue gold?", *FOUR)
    assert code == 0
    assert out.startswith("hall: red blue gold?\n")
    assert "gold answer" not in out
    assert "verdict" not in out
    assert len(plain_steps(out, FOUR[1])["end"].split()) >= 8
    code, out, _ = run(capsys, "view", "hall: red?", *FOUR, "--model", tiny_folder, "--gen-length", 8, "--max-steps", 1)
    assert code == 0
    assert plain_steps(out, FOUR[1])["end"].count("·") >= 4
    assert "out of steps" in out


def test_the_bundled_policy_is_not_used_silently_on_another_dllm(capsys):
    asked = ("reverse b k a c d e f g", "--model", "lists", "--gen-length", 8)
    for command, flag in (("view", "--policies"), ("decode", "--policy")):
        code, _, err = run(capsys, command, *asked)
        assert code == 0
        assert "No policy was chosen: house-base-full decodes, which was trained on house-base." in err
        assert f"with {flag}." in err
        assert "No policy" not in run(capsys, command, *asked, flag, "factor:factor=1")[2]
    assert "No policy" not in run(capsys, "decode", "hall: red blue gold?", "--model", "house-base")[2]


def test_a_prompt_of_a_file_by_its_place(capsys, tmp_path):
    rows = [{"prompt": f"{room}: red blue?", "answer": "x"} for room in ("hall", "attic", "porch")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["view", "--task", "file", "--task-path", tmp_path / "mine.jsonl", "--gen-length", 16, *FOUR, "--index"]
    code, out, _ = run(capsys, *argv, 2)
    assert code == 0
    assert out.startswith("porch: red blue?\n"), "no verifier, so no gold answer"
    code, out, _ = run(capsys, *argv, 1, "--verifier", "exact")
    assert out.startswith("attic: red blue?   (gold answer: x)\n")
    assert "wrong" in out
    code, _, err = run(capsys, *argv, 3)
    assert code == 2
    assert "--index 3 is past the end: the task 'mine' has 3 prompts, counted from 0." in err


def test_a_policy_draws_as_in_an_evaluation(capsys):
    """Prompt 2 of the task draws from stream 2."""
    example = load_task().examples("test", 3)[2]
    model, policy = unmask.load_model(), unmask.load_policy("random_order:k=4")
    prompts = [model.encode(e.prompt) for e in load_task().examples("test", 3)]
    texts = unmask.generate(model, policy, prompts, gen_length=32, seed=5).texts
    _, out, _ = run(capsys, "view", *FOUR, "--index", 2, "--seed", 5)
    assert example.prompt in out
    assert plain_steps(out, FOUR[1])["end"].startswith(texts[2])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policies", "confidence_treshold:threshold=0.9"], "did you mean 'confidence_threshold'?"),
        (["--policies", "house-base-fulll"], "No policy 'house-base-fulll'"),
        (["--task", "huose"], "Unknown task 'huose': did you mean 'house'?"),
        (["hall: red?", "--index", "2"], "Give a prompt or --index, which is for the prompts of a task, not both."),
        (["hall: red?", "--task-path", "x"], "Give a prompt or --task-path, which is for the prompts of a task"),
        (["--index", "-1"], "index = '-1' (input should be greater than or equal to 0)."),
        (["--index", "100000"], "index = '100000' (input should be less than or equal to 99999)."),
        (["--steps-per-second", "0"], "steps_per_second = '0' (input should be greater than 0)."),
        (["--colour-by", "size"], "colour_by = 'size' (input should be 'step' or 'confidence')."),
        (["--block-length", "some"], "Unknown block_length 'some'"),
        (["--block-length", "5"], "block_length 5 does not divide gen_length 32"),
        (["hall: red?", "--gen-length", "8", "--block-length", "3"], "block_length 3 does not divide gen_length 8"),
    ],
)
def test_bad_input_is_one_sentence_before_the_dllm_is_loaded(capsys, argv, message):
    code, _, err = run(capsys, "view", *argv, "--model", "no/such/model")
    assert code == 2
    assert message in " ".join(err.split())
    assert "no/such/model" not in err


def test_a_prompt_the_dllm_cannot_read_is_refused(capsys):
    code, _, err = run(capsys, "view", "What is 12 * 7?")
    assert code == 2
    assert "has words that the dLLM 'house-base' does not know" in err
    code, _, err = run(capsys, "view", " ")
    assert code == 2
    assert "is empty: give it at least one token." in err


def test_the_page(capsys, tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("unmask.evaluation.page")
    path = tmp_path / "new" / "view.html"
    for policies in (["house-base-full", THRESHOLD], [THRESHOLD]):  # a page of this name is written over
        flags = [flag for name in policies for flag in ("--policies", name)]
        code, out, err = run(capsys, "view", *flags, "--html", path)
        assert (code, err) == (0, "")
        assert out.endswith(f"Page: {path}\n")
        page = path.read_text()
        assert ("house-base-full" in page) == (len(policies) == 2)
        assert THRESHOLD in page
        assert load_task().examples("test", 1)[0].prompt in page
    assert [p.name for p in path.parent.iterdir()] == ["view.html"]


def test_a_page_that_cannot_be_written_is_refused_at_once(capsys, tmp_path):
    code, _, err = run(capsys, "view", "--html", tmp_path, "--model", "no/such/model")
    assert code == 2
    assert f"--html {tmp_path} is a folder: give the path of a file." in err
    (tmp_path / "notes").write_text("mine")
    code, _, err = run(capsys, "view", "--html", tmp_path / "notes" / "view.html", "--model", "no/such/model")
    assert code == 2
    assert f"cannot be written: {tmp_path / 'notes'} is a file." in err


def test_nothing_moves_when_it_is_revealed(runs):
    for shown in runs:
        final = region(shown.trajectory, shown.nfe, paint("step", 1)).plain
        before = "·" * len(final)
        for step in range(shown.nfe + 1):
            now = region(shown.trajectory, step, paint("step", 1)).plain
            assert len(now) == len(final)
            for old, new, last in zip(before, now, final, strict=True):
                assert new in ("·", last), "a dot or what will stand there"
                assert old == "·" or new == old, "what stands stays"
            before = now
        assert "·" not in final or shown.trajectory.ended == "eos"
        assert final.strip().startswith(shown.trajectory.text)


def test_colours_tell_the_step_or_the_confidence():
    shown = made_up([" go", " red", " hall", None], [0, 1, 2, 0], confidence=[0.1, 0.9, 0.5, 0.9])

    def styles(text):
        return {text.plain[span.start : span.end].strip(): span.style for span in text.spans}

    by_step = styles(region(shown.trajectory, 2, paint("step", 2)))
    assert by_step["go"].color == paint("step", 2)(0, 0.0)
    assert by_step["red"].bgcolor == paint("step", 2)(1, 0.0), "new ones are lit"
    assert "hall" not in by_step
    assert by_step["⏹"].dim
    assert by_step["⏹"].color is None
    by_confidence = styles(region(shown.trajectory, 9, paint("confidence", 2)))
    assert {word: by_confidence[word].color for word in ("go", "red")} == {
        "go": paint("confidence", 2)(7, 0.1),
        "red": paint("confidence", 2)(7, 0.9),
    }
    assert all(style.bgcolor is None for style in by_confidence.values())


def test_half_characters_lines_and_what_a_terminal_would_obey():
    shown = made_up([" na", "", "ï", "ve", "\n\n", " \x1b[31m東京", "\t."], [2, 1, 0, 2, 1, 0, 0]).trajectory
    assert region(shown, 0, paint("step", 2)).plain == " ·······\n\n ········· ·"
    assert region(shown, 1, paint("step", 2)).plain == " ···ï···\n\n \ufffd[31m東京 ."
    assert region(shown, 3, paint("step", 2)).plain == " naïve\n\n \ufffd[31m東京 ."


def test_words_behind_the_end_are_struck_out():
    shown = made_up([" go", None, " red", None], [0, 1, 0, -1], end=[False, True, True, True])
    text = region(shown.trajectory, 2, paint("step", 1))
    assert text.plain == " go ⏹ red ·"
    assert next(span.style for span in text.spans if text.plain[span.start : span.end] == "red").strike
    assert shown.tokens() == 1


@pytest.mark.parametrize(("width", "stacked"), [(80, True), (139, True), (140, False), (160, False)])
def test_stacked_or_side_by_side(runs, width, stacked):
    lines = drawn(terminal(width), frame(runs, 2, "step", terminal(width))).splitlines()
    titles = [line for line in lines if "house-base-full" in line or THRESHOLD in line]
    assert len(titles) == (2 if stacked else 1)
    assert all(len(line) <= width for line in lines)
    if not stacked:
        four = [*runs, *(replace(one, name=f"again {i}") for i, one in enumerate(runs))]
        lines = drawn(terminal(width), frame(four, 2, "step", terminal(width))).splitlines()
        assert sum("again 0" in line and "again 1" in line for line in lines) == 1, "two by two"


def test_the_faster_one_stays_finished(runs):
    fast, slow = (one.nfe for one in runs)
    assert fast < slow
    to = terminal(80)
    text = drawn(to, frame(runs, fast + 1, "step", to))
    assert f"forward pass {fast} of {fast} · {runs[0].tokens()} tokens · right" in text
    assert f"forward pass {fast + 1} of {slow} · {runs[1].tokens(fast + 1)} token" in text
    assert "wrong" not in text, "no verdict before the end"
    assert f"revealed at step 1 {'█' * min(slow, 24)} {slow}" in text
    text = drawn(to, frame(runs, slow, "step", to))
    assert f"{runs[1].tokens()} tokens · wrong" in text
    assert "confidence 0 █" in drawn(to, frame(runs, slow, "confidence", to))


def test_the_animation_ends_with_the_whole_texts(runs):
    to = terminal(100)
    animate(to, runs, "step", speed=1e6)
    text = " ".join(re.sub("[│─╭╮╰╯]", " ", to.export_text()).split())
    for one in runs:
        assert one.trajectory.text in text
        assert f"forward pass 1 of {one.nfe}" in text
    assert to.file.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_a_text_too_high_for_the_terminal_shows_where_it_grows():
    words = [f" word{i:03}" for i in range(300)]
    shown = made_up(words, list(range(300)))
    to = terminal(80, height=20)
    for step in (1, 150, 300):
        lines = to.render_lines(frame([shown, shown], step, "step", to, height=20))
        assert len(lines) <= 19
        text = "".join(segment.text for line in lines for segment in line)
        assert text.count(f"word{step - 1:03}") == 2
    assert len(to.render_lines(frame([shown], 300, "step", to))) > 30, "the end is shown whole"


def test_without_colours_each_step_is_a_line():
    to = Console(record=True, width=40, file=io.StringIO())
    shown = made_up([" one", "\n", " two [bold]", None], [0, 0, 3, 3])
    write_steps(to, [shown])
    assert to.export_text().splitlines() == [
        "",
        "made up",
        "  1  one⏎ ··· ······ ·",
        "  4  one⏎ two [bold] ⏹",
        "end  one⏎ two [bold] ⏹",
    ]


def test_markup_of_a_text_is_text():
    to = terminal(80)
    shown = replace(made_up([" [red]a[/red]", None], [0, 0]), name="[blue]name")
    text = drawn(to, panel(shown, 1, paint("step", 1), to, 80, None)) + drawn(to, table([shown]))
    assert text.count("[red]a[/red]") == 2
    assert text.count("[blue]name") == 2
