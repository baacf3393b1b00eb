"""Numbers as people and dLLMs write them."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.tasks.numerals import last_number, readings, same
from unmask.tasks.verifiers import gsm8k, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("18.00", 18),
        ("18.", 18),
        ("It costs $18.50.", Fraction(37, 2)),
        ("$1,234.50", Fraction(2469, 2)),
        ("1,080 dollars", 1080),
        ("12,34", 34),
        ("1,2345", 2345),
        ("109,200,000", 109_200_000),
        ("10,\\!080", 10080),
        ("10{,}080", 10080),
        ("10\\,080", 10080),
        ("\\$32,\\!348", 32348),
        ("50%", 50),
        ("50\\%", 50),
        ("€5 or £6", 6),
        ("-7", -7),
        ("is -7.", -7),
        ("\u22127", -7),
        ("-$7", -7),
        ("$-7", -7),
        ("(-7)", -7),
        ("10-7", 7),
        ("10 - 7", 7),
        ("x-7", 7),
        ("16/2=8", 8),
        ("1/2", Fraction(1, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("\\dfrac34", Fraction(3, 4)),
        ("\\frac{-3}{4} miles", Fraction(-3, 4)),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("**42**", 42),
        ("$5$ $6$", 6),
        ("7 eggs.\n", 7),
        ("0", 0),
        ("4/0", None),
        ("none", None),
        ("", None),
        ("\u0663", None),  # digits of other scripts are not read
        ("9" * 5000, None),  # more than Python reads
    ],
)
def test_the_last_number(text, value):
    assert last_number(text) == value


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "${}", "{} eggs.", "so **{}**", "\\({}\\)", "= {} %"]))
def test_a_whole_number_is_read_however_it_is_written(value, form):
    for written in (f"{value}", f"{value:,}", f"{value}.00"):
        assert last_number(form.format(written)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # units' exponents, indices, digits in words
        ("18 m^2", 18),
        ("18 m^{2}", 18),
        ("18 m²", 18),
        ("The area is 12 m2.", 12),
        ("40 kg of CO2", 40),
        ("x_1 = 5, x_2", 5),
        ("2^6", 64),
        ("2^{-2}", Fraction(1, 4)),
        ("10³", 1000),
        # separators
        ("1_000", 1000),
        ("12\\;500", 12500),
        ("12~500", 12500),
        ("12{\\,}500", 12500),
        ("12\\thinspace 500", 12500),
        ("12'500", 12500),
        ("12\u00a0500", 12500),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("12 500", 500),  # two numbers, unless it is an answer
        # currency
        ("Rs.500", 500),
        ("Rs 500", 500),
        ("USD500", 500),
        ("No.5", 5),
        ("-€5", -5),
        # fractions, mixed numbers
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("-1\\tfrac12", Fraction(-3, 2)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("2-1/2", Fraction(5, 2)),
        ("2 and 3/4", Fraction(11, 4)),
        ("\\frac{1,500}{3}", 500),
        ("\\frac{2.50}{1}", Fraction(5, 2)),
        ("\\cfrac{3}{4}", Fraction(3, 4)),
        ("\\frac{1}{-2}", Fraction(-1, 2)),
        ("½", Fraction(1, 2)),
        ("2½", Fraction(5, 2)),
        ("\\frac{x}{4}", None),
        # scientific notation
        ("1.5e3", 1500),
        ("5e-05", Fraction(1, 20000)),
        ("2\\times 10^{3}", 2000),
        ("2 x 10^3", 2000),
        ("1e22", 10**22),
        ("1e999999999", None),
        ("9^{999999999}", None),
        # labels, lists, emphasis, names
        ("Step 3: 18", 18),
        ("Step 4:\n18", 18),
        ("Day 5: 18 eggs", 18),
        ("The answer is:\n- 18", 18),
        ("Total - $18", 18),
        ("- Shoes: $5\n- Total: $18", 18),
        ("The answer is _18_.", 18),
        ("18 bottles of vitamin B12", 18),
        ("RM500", 500),
        ("type A12", None),
        # what is no number
        ("2:30", (2, 30)),
        ("1:3", (1, 3)),
        # signs
        ("is \u20135", -5),
        ("5\u20137", 7),
        ("18 - 0", 0),
    ],
)
def test_numbers_of_every_kind(text, value):
    assert last_number(text) == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("12 500", 12500),
        ("1 234 567", 1234567),
        ("- 5", -5),
        ("18=6*3", 18),
        ("6*3=18", 18),
        ("18=6\\times 3", 18),
        ("x=18=6*3", 18),
        ("9+9 = 18", 18),
        ("5=x", 5),
        ("x > 3", 3),
        ("18 > 3", 18),
        ("\\frac{6}{2} = 3", 3),
    ],
)
def test_an_answer_and_nothing_else(answer, value):
    assert last_number(answer, marked=True) == value


def test_millions_are_read_both_ways():
    assert readings("1.2 million dollars") == (1_200_000, Fraction(6, 5))
    assert gsm8k("\\boxed{1.2 million}", "1200000")
    assert gsm8k("\\boxed{1.2 million}", "1.2")
    assert not gsm8k("\\boxed{1.2 million}", "12")


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("18\\text{ ft}^2", "18", "2"),
        ("1.5 \\text{ m/s}^2", "1.5", "2"),
        ("40 \\text{ CO}_2", "40", "2"),
        ("\\frac{3\\text{ cups}}{4}", "0.75", "4"),
        ("\\text{USD }18", "18", "0"),
        ("\\text{13}", "13", "1"),
        ("1{,}000\\text{ m}", "1000", "0"),
        ("2:30", "2:30", "30"),
        ("2 : 30", "2:30", "30"),
        ("\\$1.2\\text{ million}", "1200000", "1200001"),
        ("0.00005", "5e-05", "5"),
        ("0.00005", "0.00005", "0.00006"),
    ],
)
def test_what_a_box_answers(answer, right, wrong):
    assert gsm8k(f"\\boxed{{{answer}}}", right)
    assert not gsm8k(f"\\boxed{{{answer}}}", wrong)


def test_small_golds_are_compared_by_their_digits():
    assert not number("1e-9", "2e-9")
    assert number("0.3333333", "1/3")
    assert not number("0.333", "1/3")
    assert same((Fraction(0),), (Fraction(0),))


FORMS = [
    "\\boxed{{{}}}",
    "<answer>\n{}\n</answer>",
    "#### {}",
    "so **{}**",
    "It is {}.",
    "\\boxed{{{}\\text{{ ft}}^2}}",
]
FORMS += ["\\boxed{{\\frac{{{}}}{{1}}}}", "\\boxed{{x = {}}}", "\\boxed{{{}\\%}}", "\\boxed{{\\$ {}}}"]


@given(st.integers(-(10**9), 10**9), st.sampled_from(FORMS), st.sampled_from([",", "{,}", "\\,", "\u202f", ""]))
def test_a_gold_number_however_it_is_written(value, form, separator):
    written = f"{value:,}".replace(",", separator)
    assert gsm8k(form.format(written), str(value))
    assert not gsm8k(form.format(written), str(value + 1))


@pytest.mark.parametrize(
    "part", ["9", "1,", "1 ", "1/", "1:", "\\frac{", "\\frac{1}{2}", "x^", "-", " ", "USD ", "\\boxed{", "#"]
)
def test_long_texts_take_linear_time(part):
    def spent(times):
        begun = time.process_time()
        gsm8k(part * times, "5")
        gsm8k("\\boxed{" + part * times, "5")
        return time.process_time() - begun

    spent(500)  # what is made once
    short = min(spent(500) for _ in range(3))
    long = min(spent(5_000) for _ in range(2))  # the machine may be busy
    assert long < 30 * max(short, 0.01), "ten times as long, and a hundred times if it were quadratic"
