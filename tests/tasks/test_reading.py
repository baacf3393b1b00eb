"""What a text answers: numbers as people and dLLMs write them, marks, programs."""

import ast
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.tasks.reading import boxed, defines, marked, program


@given(st.text(max_size=200))
def test_no_text_is_too_odd(text):
    list(marked(text))
    program(text, "Here:\n```python\n", ["f"])
    program(f"```python\n{text}", "", ["f"])


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", ["\\frac{1}{2}", "1"]),
        ("\\boxed{\\{1, 2\\}}", ["\\{1, 2\\}"]),
        ("\\boxed{a \\boxed{b}}", ["b", "a \\boxed{b}"]),
        ("\\boxed 5$", ["5"]),
        ("\\fbox{5}", ["5"]),
        ("\\boxed{5", []),
        ("\\boxed{}", [""]),
    ],
)
def test_boxes_are_read_from_the_last(text, answers):
    assert list(boxed(text)) == answers


def test_the_order_of_marks():
    text = "#### 1\n<answer>2</answer> \\boxed{3} \\boxed{4} <answer>\n5\n</answer>\n#### 6"
    assert list(marked(text)) == ["4", "3", "5", "2", "6"]
    assert list(marked("#### Step 1\nIt is 5.\n#### 5\n\n")) == ["5"]
    assert list(marked("#### Step 1\nIt is 5.")) == [], "a heading"
    assert list(marked("\\boxed{...} and <answer>...</answer>")) == [], "quotes the prompt"
    assert list(marked("<answer>\n7")) == ["7"], "the region may end there"


BODY = "    return a + b"
STUB = "def add(a, b):\n"
WHOLE = STUB + BODY + "\n"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{WHOLE}```",
        f"```py\n{WHOLE}```",
        f"```\n{WHOLE}```",
        f"Sure!\n\n```python\n{WHOLE}```\nIt adds. Use it so:\n```python\nprint(add(1, 2))\n```",
        f"First:\n```bash\npip install x\n```\nthen\n```python\n{WHOLE}```",
        f"```python\n{WHOLE}",
        WHOLE,
        f"{WHOLE}\nThis function adds two numbers.",
        f"```python\n{WHOLE}\nprint(add(1, 2))\nassert add(1, 1) == 3\n```",
        f"```python\n{WHOLE}\ndef half_done(a):\n    return (a +",
    ],
)
def test_programs_are_found(text):
    found = program(text, "", ["add"])
    space = {}
    exec(found, space)
    assert space["add"](1, 2) == 3
    assert "assert" not in found


PREFIX = f"Here is the completed function:\n```python\n{STUB}"


@pytest.mark.parametrize(
    "text",
    [
        f"{BODY}\n```",
        f"{BODY}\n```\nIt adds:\n```python\nadd(1, 2)\n```",
        BODY,
        f"{WHOLE}```",
        f"```python\n{WHOLE}```",
        f"\n```\n```python\n{WHOLE}```",
    ],
)
def test_the_prefix_may_open_the_block(text):
    code = program(text, PREFIX, ["add"])
    space = {}
    exec(code if defines(code, "add") and "return" in code else STUB + code, space)
    assert space["add"](1, 2) == 3


def test_nothing_that_parses_is_left_as_it_is():
    assert program("no code !") == "no code !"
    assert program("```python\n) (\n```") == ") (\n"


def test_odd_escapes_are_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ast.parse(program("x = 1\n").strip())
        assert program("x = '\\d'\n") == "x = '\\d'\n"


@pytest.mark.parametrize(
    "code", ["def f(): 1", "async def f(): 1", "class f: 1", "f = 1", "f: int = 1", "  def f(): 1"]
)
def test_definitions(code):
    assert defines(f"import os\n{code}\n", "f")
    assert not defines(f"import os\n{code}\n", "g")
    assert not defines("fun = f(1)", "f")


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(
    "reply",
    [
        "````python\n{}````",
        "```{{python}}\n{}```",
        "~~~python\n{}~~~",
        "```\n{}```",
        "Here it is:\n```\n{}```\nIt adds.",
        "\ufeff```python\n{}```",
        "```python title=x\n{}```\n",
        "```\r\n{}```\r\n",
        "```python\n{}",
        "```\npip install x\n```\n```py\n{}```",
    ],
)
def test_fences(prefix, reply):
    code = program(reply.format(WHOLE), prefix, ["add"])
    space = {}
    exec(code, space)
    assert space["add"](1, 2) == 3


def test_a_fence_in_a_list_is_indented():
    code = "".join(f"   {line}\n" for line in WHOLE.splitlines())
    assert program(f"1. So:\n   ```python\n{code}   ```", "", ["add"]) == WHOLE


def test_a_docstring_may_hold_a_fence():
    code = 'def add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\n    """\n    return a + b\n'
    assert program(f"```python\n{code}```\nIt adds.", "", ["add"]) == code
    assert program(f"{code}```\nIt adds.", "```python\n", ["add"]) == code


@pytest.mark.parametrize("odd", ["+".join(["1"] * 2000), "-" * 999 + "1", "f()" + ".f()" * 400, "0x" + "f" * 5000])
def test_what_cannot_be_written_anew_is_left_as_it_is(odd):
    assert program(f"def f(x): return 1\nY = {odd}\nprint(Y)\n", "", ["f"]).startswith("def f(x): return 1\n")


def test_many_fences_take_linear_time():
    def spent(part):
        begun = time.process_time()
        for text in ("```\n" * 20_000, "```python\nx = (\n" * 5_000, "~~~\n```\n" * 10_000, "`" * 100_000):
            program(text[: len(text) // part], "", ["f"])
        return time.process_time() - begun

    spent(10)  # what is made once
    assert spent(1) < 30 * max(spent(10), 0.01), "ten times as long, and a hundred times if it were quadratic"
