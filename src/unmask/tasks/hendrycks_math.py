"""MATH: competition mathematics (arXiv 2103.03874), and its test of 500 problems (arXiv 2305.20050)."""

from __future__ import annotations

from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.dataset import DataSet
from unmask.tasks.gsm8k import BOXED, EVALUATION, FORMAT, PREFIX
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


class MATH(DataSet):
    """Prompts of the paper in chats, see `GSM8K`; for base models those of lm-evaluation-harness (minerva_math)."""

    known = {"prompt": ("problem", "question", "prompt"), "answer": ("answer",), "solution": ("solution",)}
    hub = {
        "train": tuple(HubSplit("EleutherAI/hendrycks_math", subject, "train") for subject in SUBJECTS),
        "test": (HubSplit("HuggingFaceH4/MATH-500", None, "test"),),
    }
    own_verifier = "math"
    stops = ("Problem:",)

    def answer(self, row: Row) -> str:
        """The column of that name, or what the solution boxes."""
        answer = self.columns.get(row, "answer")
        if answer is None and (solution := self.columns.get(row, "solution")) is not None:
            answer = next(boxed(str(solution)), None)
            if answer is None:
                raise UnmaskError(f"{row.place}: no answer, and no \\boxed{{}} in the solution: add one of them.")
        return self.columns.text(row, "answer") if answer is None else str(answer)

    def details(self, row: Row) -> dict[str, Any]:
        solution = self.columns.get(row, "solution")
        return {**self.columns.others(row, "prompt", "answer"), **({"solution": solution} if solution else {})}

    def message(self, row: Row, split: str) -> tuple[str, str]:
        question = self.question(row)
        if self.few_shot:
            question = f"{self.shots}Question: {question}\nAnswer:\n"
        if split == "train":
            return f"{FORMAT}\n\n{BOXED} \n\n{question}", ""
        return f'{EVALUATION}"\n\n\n{question}', PREFIX  # the stray quotation mark is d1's

    def plain(self, row: Row) -> str:
        return f"Problem:\n{self.question(row)}\n\nSolution:"

    def shot(self, row: Row) -> str:
        solution = self.columns.get(row, "solution") or f"\\boxed{{{self.answer(row)}}}"
        if self.chat:
            return f"Question: {self.question(row)}\nAnswer:\n{solution}"
        return f"{self.plain(row)} {solution}"
