"""MATH: competition mathematics (arXiv 2103.03874), and its test of 500 problems (arXiv 2305.20050)."""

from __future__ import annotations

from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.d1_prompts import BOXED, EVALUATION, PREFIX, TRAINING
from unmask.tasks.dataset import Format, Prompts, other_columns, prompt_of
from unmask.tasks.reading import boxed
from unmask.tasks.rows import HubSplit, Row

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def _answer(row: Row) -> str:
    """The column of that name, or what the solution boxes."""
    answer = row.get("answer")
    if answer is None and (solution := row.get("solution")) is not None:
        answer = next(boxed(str(solution)), None)
        if answer is None:
            raise UnmaskError(f"{row.place}: no answer, and no \\boxed{{}} in the solution: add one of them.")
    return row.text("answer") if answer is None else str(answer)


def _details(row: Row) -> dict[str, Any]:
    solution = row.get("solution")
    return {**other_columns(row), **({"solution": solution} if solution else {})}


def _message(row: Row, split: str, shots: str) -> tuple[str, str]:
    question = f"{shots}Question: {prompt_of(row)}\nAnswer:\n" if shots else prompt_of(row)
    if split == "train":
        return f"{TRAINING}\n\n{BOXED} \n\n{question}", ""
    return f'{EVALUATION}"\n\n\n{question}', PREFIX  # the stray quotation mark is d1's


def _plain(row: Row) -> str:
    return f"Problem:\n{prompt_of(row)}\n\nSolution:"


def _shot(row: Row, chat: bool) -> str:
    solution = row.get("solution") or f"\\boxed{{{_answer(row)}}}"
    return f"Question: {prompt_of(row)}\nAnswer:\n{solution}" if chat else f"{_plain(row)} {solution}"


# Prompts of the paper in chats, see `GSM8K`; for base models those of lm-evaluation-harness (minerva_math).
MATH = Format(
    columns={"prompt": ("problem", "question", "prompt"), "answer": ("answer",), "solution": ("solution",)},
    hub={
        "train": tuple(HubSplit("EleutherAI/hendrycks_math", subject, "train") for subject in SUBJECTS),
        "test": (HubSplit("HuggingFaceH4/MATH-500", None, "test"),),
    },
    prompts=Prompts(_message, _plain, _shot, stops=("Problem:",)),
    verifier="math",
    answer=_answer,
    details=_details,
)
