"""Numbers as people and dLLMs write them, read exactly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

Ratio = tuple[Fraction, ...]
Value = Fraction | Ratio
"""A number; or the parts of a ratio or a time of day, ``2:30``, which is none."""

CODES = "USD|EUR|GBP|CAD|AUD|INR|AED|CHF|RM|Php|PHP|kr|Rs"
CURRENCY = rf"(?:\\?[$€£¥₹]|\b(?:{CODES})\b\.?|\b(?:{CODES}\.?)(?=\s?\d))"
NARROW = "\u00a0\u2007\u2009\u202f"
SEPARATOR = rf"(?:,|\{{,\}}|['\u2019_~{NARROW}]|\\[,;:! ]|\{{\\,\}}|\\thinspace\s*)+"
GROUPED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:{SEPARATOR}\d{{3}})+(?!\d)", re.ASCII)
SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/]| ?/)", re.ASCII)
SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
VULGAR = {chr(code) for code in [0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F)]}
FULLWIDTH = {0xFF10 + digit: str(digit) for digit in range(10)} | {0xFF0D: "-", 0xFE63: "-", 0x2212: "-"}
# Behind a letter or a bracket they are an index, or the exponent of a unit.
SCRIPT = re.compile(r"(?:(?<=[A-Za-z)}\]])(?:\s*\^|_)|(?<=unit )_)\s*(?:\{[^{}]*\}|\\[A-Za-z]+|-?\w)")
INDEX = re.compile(r"(?<=\d)_\s*(?:\{[^{}]*\}|\w)")
ALONE = re.compile(r"\s*[\d.]+(?:\s*:\s*[\d.]+)+\s*", re.ASCII)
MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

_U = r"(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
_ARGUMENT = r"\s*(?:\{{\s*(?P<{0}>[^{{}}]*)\}}|(?P<{0}1>\d))"
TOKEN = re.compile(
    rf"""
      (?:(?P<whole>\d+)\s*)?\\(?:[dtcs]?frac|nicefrac){_ARGUMENT.format("above")}{_ARGUMENT.format("below")}
    | (?<![A-Za-z\d])(?P<units>\d+)(?:\s+|-|\s+and\s+)(?P<part>\d+)\s?/\s?(?P<parts>\d+)(?!\.?\d)
    | (?<![A-Za-z\d])(?P<over>{_U})\s?/\s?(?P<under>-?{_U})
    | (?<![A-Za-z\d])(?P<mantissa>{_U})(?:[eE](?P<e>[+-]?\d+)(?!\w)
        |\s*(?:\\times|\\cdot|[xX\u00d7*\u00b7\u22c5])\s*10\s*\^\s*\{{?\s*(?P<ten>[+-]?\d+)\s*\}}?)
    | (?<![A-Za-z\d])(?P<base>{_U})\s*\^\s*\{{?\s*(?P<power>-?\d+)\s*\}}?
    | (?<![A-Za-z\d])(?P<ratio>{_U}(?:(?::|\\colon\s?){_U})+)
    | (?<![A-Za-z\d])(?P<plain>{_U})
    """,
    re.ASCII | re.VERBOSE,
)
LONGEST_POWER = 4096  # bits


def last_number(text: str, marked: bool = False) -> Value | None:
    """The last number of a text, exactly.

    In any currency or unit; with separators of thousands; a decimal, a fraction, a mixed number, in scientific
    notation, or a power. A digit in a word (CO2), an index, and the exponent of a unit are none.

    Args:
        marked: the text is an answer and nothing else: thousands may be separated by a plain space, and of an equation
            the side that is a number counts.
    """
    found = readings(text, marked)
    return found[0] if found else None


def readings(text: str, marked: bool = False) -> tuple[Value, ...]:
    """`last_number` in the ways that it can be read: ``1.2 million`` is 1,200,000, or 1.2 where millions are asked."""
    text = _plain(text, marked)
    sides = [text]
    if marked:
        sides = re.split(r"=|\\approx|\\equiv|≈", text)
        if len(sides) == 1:
            sides = re.split(r"[<>≤≥]|\\[lg]e[q]?(?![a-z])", text)[::-1]  # 18 > 3 answers 18
    alone = [found for side in sides if len(found := list(_tokens(side, marked))) == 1 and not _computes(side)]
    found = alone[-1] if alone else list(_tokens(text, marked))
    return found[-1] if found else ()


def _computes(side: str) -> bool:
    rest = TOKEN.sub(" ", side)
    return (
        re.search(r"[*+\u00d7\u00f7]|\d\s*-|\\times|\\cdot|\\div|[A-Za-z0-9)]\s*-", rest) is not None
        or "\\frac" in rest
    )


def _plain(text: str, marked: bool) -> str:
    text = text.translate(FULLWIDTH)
    text = re.sub(r"(?<![\w)\]}])\s?[\u2013\u2014](?=[\d.])", " -", text)
    text = SUPERSCRIPT.sub(lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = "".join(f" {_fraction(c)}" if c in VULGAR else c for c in text)
    text = GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    if marked:
        text = SPACED.sub(lambda m: m[0].replace(" ", ""), text)
        text = re.sub(r"\s", "", text) if ALONE.fullmatch(text) else text
    for space in ("\\,", "\\!", "\\ ", "\\;", "\\:", "~", *NARROW):
        text = text.replace(space, " ")
    text = re.sub(rf"(?<![\w)\]}}])-{CURRENCY}\s*(?=[\d.])", "-", text)
    text = re.sub(CURRENCY, " ", text)
    text = re.sub(r"\\(?!(?:[dtcs]?frac|nicefrac))[A-Za-z]+", r"\g<0> ", text)
    return INDEX.sub(" ", SCRIPT.sub(" ", text))


def _fraction(character: str) -> str:
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


def _tokens(text: str, marked: bool = False) -> Iterator[tuple[Value, ...]]:
    """What can be read of each number, in order."""
    for token in TOKEN.finditer(text):
        try:
            value = _value(token)
        except (ValueError, ZeroDivisionError, OverflowError):  # more digits than Python reads, a denominator of 0
            value = None
        if value is None:
            yield ()
            continue
        if isinstance(value, tuple):
            yield (value,)
            continue
        value = -value if _negative(text[: token.start()], marked) else value
        word = re.match(r"[\s-]*([a-z]+)", text[token.end() :], re.IGNORECASE)
        zeros = MAGNITUDES.get(word[1].lower()) if word else None
        yield (value,) if zeros is None else (value * 10**zeros, value)


def _negative(before: str, marked: bool) -> bool:
    """A minus is a sign where it is no subtraction; with a space behind it, only at the start of an answer."""
    rest = before.rstrip()
    if not rest.endswith("-"):
        return False
    left = rest[:-1]
    if rest == before:
        return not left or not (left[-1].isalnum() or left[-1] in "_)]}")
    return marked and (not left.strip() or left.rstrip()[-1] in "=(,{$")


def _value(token: re.Match[str]) -> Value | None:
    group = token.groupdict()
    if group["above"] is not None or group["above1"] is not None:
        above = _inside(group["above"] or group["above1"] or "")
        below = _inside(group["below"] or group["below1"] or "")
        if above is None or below is None:
            return None
        return Fraction(group["whole"] or 0) + above / below
    if group["units"] is not None:
        part = Fraction(group["part"]) / Fraction(group["parts"])
        return Fraction(group["units"]) + part if part < 1 else part
    if group["over"] is not None:
        return Fraction(group["over"]) / Fraction(group["under"])
    if group["mantissa"] is not None:
        exponent = int(group["e"] or group["ten"])
        return Fraction(group["mantissa"]) * Fraction(10) ** exponent if abs(exponent) < 1000 else None
    if group["base"] is not None:
        base, power = Fraction(group["base"]), int(group["power"])
        longest = max(abs(base.numerator), base.denominator).bit_length() * abs(power)
        return base**power if longest <= LONGEST_POWER else None
    if group["ratio"] is not None:
        return tuple(Fraction(part.strip()) for part in re.split(r":|\\colon", group["ratio"]))
    return Fraction(group["plain"])


def _inside(argument: str) -> Fraction | None:
    """A numerator or denominator, which is one number or none."""
    found = list(_tokens(argument))
    rest = re.sub(r"\\[A-Za-z]+|\bunit\b", "", TOKEN.sub("", argument))
    alone = found[0] if len(found) == 1 and not re.search(r"[A-Za-z]|\d", rest) else ()
    return alone[0] if alone and isinstance(alone[0], Fraction) else None


def is_number(text: str) -> bool:
    """It is one number and nothing else."""
    text = _plain(text, marked=True)
    return len(list(_tokens(text, marked=True))) == 1 and not re.sub(r"[\s.$%\\-]", "", TOKEN.sub("", text))


def same(found: tuple[Value, ...], gold: tuple[Value, ...]) -> bool:
    """One reading of each is equal, but for the rounding of a sixth digit."""
    return any(_close(one, other) for one in found for other in gold)


def _close(one: Value, other: Value) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        return one == other
    return abs(one - other) <= min(Fraction(1, 10**6), abs(other) / 10**6)
