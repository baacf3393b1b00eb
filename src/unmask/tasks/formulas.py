"""Formulas as people and dLLMs write them, put into what math-verify reads; and what it does not look at: bases,
ratios, intervals that are written as inequalities, words."""

from __future__ import annotations

import re
import unicodedata

from unmask.tasks.numerals import FULLWIDTH, SUPERSCRIPT, SUPERSCRIPTS, VULGAR

TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mbox|mathrm)\s*\{([^{}]*)\}")
DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
SIGNS = {
    "°": r"^\circ",
    "º": r"^\circ",
    "\u02da": r"^\circ",
    "∞": r"\infty ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "×": r"\times ",  # noqa: RUF001
    "÷": r"\div ",
    "π": r"\pi ",
    "∪": r"\cup ",  # noqa: RUF001
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "~": " ",
    "\u00a0": " ",
    "\u202f": " ",
    "\u2009": " ",
}
SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
SYNONYMS = [
    (re.compile(r"\\(?:sfrac|nicefrac|cfrac|dfrac|tfrac)(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\color\s*\{[^{}]*\}|\\displaystyle(?![A-Za-z])"), ""),
    (re.compile(r"\\textcolor\s*\{[^{}]*\}\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\underline\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+|\w))"), r"\\sqrt{\1\2\3}"),
    (re.compile(r"(?<![\w.}])(\d+)\s+(\d+)\s?/\s?(\d+)(?!\.?\d)", re.ASCII), r"\1\\frac{\2}{\3}"),
]
WORDS = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
)
BASES = {word: str(base) for base, word in enumerate(WORDS, 2)} | {"binary": "2", "octal": "8", "hexadecimal": "16"}
_BASE = rf"(?P<base>\d+|{'|'.join(BASES)})"
NUMERAL = re.compile(
    rf"(?:(?P<minus>-)?\((?P<in>-?[\dA-F]+)\)|(?P<digits>(?:(?<![\w)}}])-)?(?<![\w.,])(?:\d[\dA-F]*|[A-F]+\d[\dA-F]*)))\s*(?:_\s*[({{]*\s*{_BASE}\s*[)}}]*"
    rf"|\(?\s*(?:in\s+)?base[\s-]*{_BASE.replace('base>', 'named>')}\s*\)?)(?![\w^])"
)
RATIO = re.compile(r"\s*\d+(?:\.\d+)?(?:\s*(?::|\\colon)\s*\d+(?:\.\d+)?)+\s*", re.ASCII)
_SIDE = r"([^<>=]+?)"
_LESS, _MORE = r"\s*(<|\\leq?(?![a-z])|\\leqslant)\s*", r"\s*(>|\\geq?(?![a-z])|\\geqslant)\s*"
BETWEEN = re.compile(rf"{_SIDE}{_LESS}([a-zA-Z]){_LESS}{_SIDE}")
BELOW = re.compile(rf"([a-zA-Z]){_LESS}{_SIDE}|{_SIDE}{_MORE}([a-zA-Z])")
ABOVE = re.compile(rf"([a-zA-Z]){_MORE}{_SIDE}|{_SIDE}{_LESS}([a-zA-Z])")
OR = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|\\lor(?![a-z])|\\vee(?![a-z])|\bor\b)\s*")
INTERVAL = re.compile(r"[\[(].*,.*[\])]")


def notation(formula: str) -> str:
    """A formula in LaTeX that math-verify reads: no Unicode signs, no colours, mixed numbers as a fraction."""
    formula = formula.translate(FULLWIDTH)
    formula = re.sub(r"(?:^|(?<=[\s({\[,=]))[\u2013\u2014](?=\s?[\w.\\])", "-", formula)
    formula = SUPERSCRIPT.sub(lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", formula)
    formula = SUBSCRIPT.sub(lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", formula)
    formula = "".join(_fraction(c) if c in VULGAR else c for c in formula)
    for pattern, instead in SYNONYMS:
        formula = pattern.sub(instead, formula)
    return "".join(SIGNS.get(c, c) for c in formula).replace("!=", "! =")


def ending(formula: str) -> str:
    """Without the point or comma of the sentence that it ends."""
    return re.sub(r"(?<!\\)[.,;\s]+$", "", formula.strip().strip("$"))


def ungrouped(formula: str) -> str:
    """Numbers without separators of thousands."""
    return re.sub(r"(?<![\d.,])\d{1,3}(?:(?:,\\!|\{,\}|\\,|,)\d{3})+(?!\d)", lambda m: re.sub(r"\D", "", m[0]), formula)


def _fraction(character: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", character).partition("\u2044")
    return f"\\frac{{{above}}}{{{below}}}"


def plain(formula: str) -> str:
    r"""A formula without its typography: ``\text{ (C) }`` is ``(C)``, ``\dfrac`` is ``\frac``."""
    formula = TEXT.sub(r"\1", notation(formula).strip().strip("$").rstrip("."))
    return re.sub(r"\\(?:left|right)(?![a-z])|\\(?:!|,|;|:|\s)|\\?\$|\s", "", formula)


def numeral(text: str) -> tuple[str, str] | None:
    """Digits and base of the last numeral that names its base: ``52_8``, ``(52)_{eight}``, ``52 (base 8)``."""
    text = re.sub(r"\\[,;:! ]", "", TEXT.sub(r" \1 ", notation(text)))
    found = list(NUMERAL.finditer(text.replace("{ ", "{").replace("{(base", "(base").replace("{base", "base")))
    if not found:
        return None
    group = found[-1].groupdict()
    base = group["base"] or group["named"]
    return ((group["minus"] or "") + (group["in"] or group["digits"])).lstrip("0"), BASES.get(base, base.lstrip("0"))


def is_numeral(formula: str) -> bool:
    """It is a numeral and nothing else, with its base or without."""
    rest = re.sub(r"\\text|[{}()_\s$.,\\!-]|base", "", notation(formula))
    return re.fullmatch(rf"[\dA-F]+(?:{'|'.join(BASES)})?", rest) is not None


def is_ratio(formula: str) -> bool:
    """It is a ratio or a time of day: its parts are compared, not their quotient."""
    return RATIO.fullmatch(formula.strip().strip("$")) is not None


def as_interval(formula: str) -> str | None:
    """The interval of an inequality in one variable: ``1 < x \\le 2`` is ``(1,2]``; the union of several."""
    parts = re.split(
        r"\s*(?:\\text\s*\{\s*or\s*\}|\\lor(?![a-z])|\\vee(?![a-z])|\bor\b)\s*", formula.strip().strip("$")
    )
    found = [_interval(notation(part).strip()) for part in parts]
    return None if None in found else r"\cup ".join(map(str, found))


def _interval(part: str) -> str | None:
    if m := BETWEEN.fullmatch(part):
        return f"{_bracket(m[2], '([')}{m[1]},{m[5]}{_bracket(m[4], ')]')}"
    if m := BELOW.fullmatch(part):
        sign, end = (m[2], m[3]) if m[1] else (m[5], m[4])
        return f"(-\\infty,{end}{_bracket(sign, ')]')}"
    if m := ABOVE.fullmatch(part):
        sign, end = (m[2], m[3]) if m[1] else (m[5], m[4])
        return f"{_bracket(sign, '([')}{end},\\infty)"
    return None


def _bracket(sign: str, open_closed: str) -> str:
    return open_closed[sign not in "<>"]


def is_interval(formula: str) -> bool:
    """It is written as one, or as a union of them."""
    rest = re.sub(r"\\left|\\right|\s|\$|^[a-zA-Z]\\in", "", formula)
    return all(INTERVAL.fullmatch(part) for part in rest.split(r"\cup"))
