"""Verifiers by hand-written verdicts, a user's own, and what may go wrong with math-verify."""

import importlib.util
import threading
import time

import pytest

from tests.tasks.data import has_math_verify
from unmask.errors import UnmaskError
from unmask.tasks import math_judge, programs, verifiers
from unmask.tasks.math_judge import MathJudge
from unmask.tasks.verifiers import exact, gsm8k, gsm8k_strict, load_verifier, number


def test_exact_and_number():
    assert exact(" hall ", "hall")
    assert not exact("the hall", "hall")
    assert number("#### 1,234", "so 1234")
    assert number("-3.50", "-3.5")
    assert not number("none", "3")
    assert not number("none", "none")
    assert number("a fall of 0", "0")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<reasoning>\n9 * 2 = 18\n</reasoning>\n<answer>\n\\boxed{18}\n</answer>", True),
        ("</reasoning>\n<answer>\n18\n</answer>", True),
        ("<answer>\n\\boxed{18}<|eot_id|><|endoftext|>", True),
        ("<answer>\n\\boxed{18 \\text{ dollars in 2 days}}", True),
        ("\\boxed{\\text{18}}", True),
        ("\\boxed{x = 18}", True),
        ("\\boxed{\\$18.00}", True),
        ("she makes \\boxed{18}, of 9 eggs", True),
        ("\\boxed{17} no, \\boxed{18}", True),
        ("\\boxed{18} no, \\boxed{17}", False),
        ("<answer>17</answer> \\boxed{18}", True),
        ("<answer>18</answer> \\boxed{17}", False),
        ("<answer>18</answer> #### 17", True),
        ("\\boxed{eighteen} <answer>18</answer>", True),
        ("<answer>17, 18</answer>", True),
        ("<answer>18, 17</answer>", False),
        ("#### 18\n", True),
        ("#### 17 of 18", True),
        ("\\boxed{-18}", False),
        ("\\boxed{180}", False),
        ("\\boxed{18.5}", False),
        ("\\boxed{}", False),
        ("", False),
    ],
)
def test_gsm8k_of_marked_answers(text, right):
    assert gsm8k(text, "18") is right
    assert gsm8k_strict(text, "18") is right
    assert gsm8k(text, "9 * 2 = <<9*2=18>>18\n#### 18") is right, "a solution is an answer"


@pytest.mark.parametrize(("text", "right"), [("She makes $18.", True), ("18 in 2 days", False), ("18 - 0", False)])
def test_gsm8k_takes_the_last_number_and_the_strict_one_does_not(text, right):
    assert gsm8k(text, "18") is right
    assert not gsm8k_strict(text, "18")


def test_a_marked_zero_is_an_answer():
    assert gsm8k("\\boxed{0}, not 5", "0")
    assert not gsm8k("\\boxed{0}, not 5", "5")


def test_names():
    assert load_verifier("exact")("a", "a", {})
    assert load_verifier("unmask.tasks.verifiers:exact")("a", "a", {})
    with pytest.raises(
        UnmaskError, match="Unknown verifier 'exct': use exact, number, gsm8k, gsm8k_strict, math, code,"
    ):
        load_verifier("exct")
    with pytest.raises(UnmaskError, match="Cannot import the verifier 'no.such'"):
        load_verifier("no.such")


def test_a_verifier_of_ones_own():
    def with_columns(text, answer, columns):
        return text == answer or text in columns["also"]

    verify = load_verifier(with_columns)
    assert verify("den", "study", {"also": ["den"]})
    assert not verify("hall", "study", {"also": ["den"]})
    with pytest.raises(UnmaskError, match="The verifier 'with_columns' failed on 'hall' .KeyError: 'also'.: mend it"):
        verify("hall", "study", {})
    with pytest.raises(UnmaskError, match="The verifier '<lambda>' gave None for 'x': return True or False"):
        load_verifier(lambda text, answer: None)("x", "y", {})
    numpy = pytest.importorskip("numpy")
    assert load_verifier(lambda text, answer: numpy.bool_(True))("x", "y", {}) is True


def test_math_without_math_verify(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (lambda: load_verifier("math"), lambda: verifiers.math("1", "1")):
        with pytest.raises(UnmaskError, match=r"needs math-verify: pip install 'unmask\[tasks\]'"):
            call()


@has_math_verify
@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("\\boxed{\\frac12}", "0.5", True),
        ("\\boxed{\\dfrac{1}{2}}", "\\frac{1}{2}", True),
        ("\\boxed{x = 5}", "5", True),
        ("\\boxed{-2, 1}", "1,-2", True),
        ("\\boxed{(2, 1)}", "(1,2)", False),
        ("\\boxed{[-2,7]}", "x \\in [-2,7]", True),
        ("\\boxed{(-2,7]}", "[-2,7]", False),
        ("\\boxed{2, 3, 4}", "2,3", False),
        ("\\boxed{Evelyn}", "\\text{Evelyn}", True),
        ("\\boxed{\\text{evelyn}}", "\\text{Evelyn}", True),
        ("\\boxed{\\text{Nelyve}}", "\\text{Evelyn}", False),
        ("\\boxed{C}", "\\text{(C)}", True),
        ("\\boxed{\\text{(D)}}", "\\text{(C)}", False),
        ("\\boxed{90}", "90^\\circ", True),
        ("\\boxed{52_6}", "52_8", False),
        ("\\boxed{52_{8}}", "52_8", True),
        ("\\boxed{52}", "52_8", True),
        ("\\boxed{\\$32348}", "\\$32,\\!348", True),
        ("\\boxed{2x+2}", "2(x+1)", True),
        ("\\boxed{2x+1}", "2(x+1)", False),
        # bases, however they are named
        ("\\boxed{52_{six}}", "52_8", False),
        ("\\boxed{52_{(6)}}", "52_8", False),
        ("\\boxed{52\\,_6}", "52_8", False),
        ("\\boxed{52 \\text{ (base 6)}}", "52_8", False),
        ("\\boxed{(52)_8}", "52_8", True),
        ("\\boxed{52_{\\text{eight}}}", "52_8", True),
        ("\\boxed{52_\\text{eight}}", "52_{8}", True),
        ("\\boxed{52₈}", "52_8", True),
        ("\\boxed{-52_8}", "52_8", False),
        ("The answer is $52_6$.", "52_8", False),
        ("The answer is $52_8$.", "52_8", True),
        # words, ratios, times of day
        ("\\boxed{east}", "tase", False),
        ("\\boxed{3:30}", "7:70", False),
        ("\\boxed{2 : 3}", "2:3", True),
        ("It is 12:30", "12", False),
        ("\\boxed{A5_{16}}", "B5_{16}", False),
        ("\\boxed{-(52)_8}", "52_8", False),
        ("\\boxed{1011 \\text{ base } 2}", "1011_2", True),
        # sentences in a mark
        ("<answer>The answer is 15</answer>", "15", True),
        ("<answer>The answer is 16</answer>", "15", False),
        ("<answer>There are 15 ways</answer>", "15", True),
        ("<answer>The probability is $\\frac{3}{4}$</answer>", "\\frac{3}{4}", True),
        ("<answer>**15**</answer>", "15", True),
        # separators of thousands, the point of the sentence, factorials
        ("\\boxed{x = 1,500}", "1500", True),
        ("\\boxed{N=1{,}500}", "1500", True),
        ("\\boxed{1,500}", "1,500", True),
        ("\\boxed{(1,500)}", "(1,500)", True),
        ("It is $x=5\\sqrt{2}.$", "5\\sqrt{2}", True),
        ("\\boxed{(a,b)=(-2,1).}", "(-2,1)", True),
        ("So $5!=120$", "120", True),
        # a last number that is no answer
        ("The answer is 5.", "3,5", False),
        ("the answer is 5π", "5", False),
        ("the answer is 5x", "5", False),
        # mixed numbers, powers without dollars
        ("\\boxed{2 1/2}", "\\frac{5}{2}", True),
        ("\\boxed{2 1/2}", "2", False),
        ("The answer is 2 2/3.", "2", False),
        ("The answer is 2 2/3.", "\\frac{8}{3}", True),
        ("It is 2^{10}.", "1024", True),
        ("so\n\\[ 15\\mbox{ cm}^2 \\]", "15\\mbox{ cm}^2", True),
        # small numbers agree in four digits
        ("\\boxed{.0000673}", ".0000672", False),
        ("\\boxed{.0000672}", ".0000672", True),
        ("\\boxed{6.72 \\times 10^{-5}}", ".0000672", True),
        ("\\boxed{\\frac{1}{2004!}}", "\\frac{1}{2006!}", False),
        ("\\boxed{\\frac{1}{2^{98}}}", "2^{-98}", True),
        ("\\boxed{25}", "25\\%", True),
        ("\\boxed{0.5\\%}", "0.5", True),
        # Unicode and other notations
        ("\\boxed{45°}", "45^\\circ", True),
        ("\\boxed{[0,∞)}", "[0,\\infty)", True),
        ("\\boxed{2½}", "\\frac52", True),
        ("\\boxed{x³}", "x^3", True),
        ("\\boxed{x²}", "x^3", False),
        ("\\boxed{2·3}", "6", True),
        ("\\boxed{√2}", "\\sqrt{2}", True),
        ("\\boxed{√(2)}", "2", False),
        ("\\boxed{\u20132}", "-2", True),
        ("\\boxed{\\nicefrac{3}{4}}", "\\frac34", True),
        ("\\boxed{\\color{red}{13}}", "13", True),
        ("\\boxed{\\underline{13}}", "13", True),
        ("\\boxed{~13}", "13", True),
        ("\\boxed{\\varnothing}", "\\emptyset", True),
        ("\\boxed{e^{i\\pi}}", "-1", True),
        # inequalities and intervals, both ways
        ("\\boxed{x>2}", "(2,\\infty)", True),
        ("\\boxed{x \\ge 2}", "(2,\\infty)", False),
        ("\\boxed{1 \\le x \\le 2}", "[1,2]", True),
        ("\\boxed{1 < x \\le 2}", "[1,2]", False),
        ("\\boxed{(2,\\infty)}", "x > 2", True),
        ("\\boxed{x<2 \\text{ or } x>3}", "(-\\infty,2)\\cup(3,\\infty)", True),
        ("\\boxed{1} so \\boxed{2}", "2", True),
        ("\\boxed{2} so \\boxed{1}", "2", False),
        ("<answer>\n$\\sqrt{4}$\n</answer>", "2", True),
        ("The final answer is $\\frac{2}{4}$. I hope it is correct.", "\\frac{1}{2}", True),
        ("There are 12 of them.", "12", True),
        ("\\boxed{" + "1+" * 300 + "1}", "301", False),  # too long to be an answer
        ("", "2", False),
        ("\\boxed{", "2", False),
    ],
)
def test_math(text, answer, right):
    assert verifiers.math(text, answer) is right


@has_math_verify
def test_math_reads_the_gold_answer_out_of_a_solution():
    assert verifiers.math("\\boxed{2}", "It is 1 + 1 = \\boxed{2}.")


@has_math_verify
def test_math_works_in_threads_and_many_at_once():
    verdicts = {}
    threads = [
        threading.Thread(
            target=lambda i=i: verdicts.setdefault(i, verifiers.math(f"\\boxed{{{2 * i}/2}}", str(i % 10)))
        )
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {i: i < 10 for i in range(20)}


@has_math_verify
def test_what_hangs_is_stopped_and_the_next_answer_judged():
    judge = MathJudge(seconds=1.0)
    try:
        assert judge.equal("5", "5.0")
        begun = time.monotonic()
        assert not judge.equal("5", "9^{9^{9^{9}}}"), "no time limit in Python can stop this"
        assert time.monotonic() - begun < 20
        assert judge.equal("5", "10/2")
        judge._worker.kill()
        judge._worker.wait()
        assert judge.equal("5", "10/2"), "it starts again"
    finally:
        judge.close()
    assert judge.equal("5", "10/2"), "also after the end"
    judge.close()


@has_math_verify
@pytest.mark.parametrize(
    "odd", ["{" * 200, "\\sqrt{" * 40, "\x00\ud800", "\\frac{1}{0}", "1\n\n2", "\u2028", '"}', "\\"]
)
def test_nothing_odd_escapes(odd):
    assert verifiers.math(f"\\boxed{{{odd}}}", "77") is False
    assert verifiers.math(odd, "77") is False
    assert verifiers.math("\\boxed{77}", odd) is False


def test_a_judge_that_cannot_start_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(math_judge, "__file__", str(tmp_path / "math_judge.py"))
    with pytest.raises(UnmaskError, match="math-verify cannot be started: reinstall it"):
        MathJudge().equal("5", "10/2")


def test_a_verifier_may_prepare_itself():
    class Judge:
        ready = False

        def prepare(self):
            self.ready = True

        def __call__(self, text, answer):
            return self.ready and text == answer

    judge = load_verifier(Judge())
    assert not judge("hall", "hall", {})
    judge.prepare()
    assert judge("hall", "hall", {})
    load_verifier("exact").prepare()
    assert load_verifier("code").function.prepare is programs.sandbox
