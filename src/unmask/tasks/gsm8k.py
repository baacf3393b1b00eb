"""GSM8K: grade-school mathematics (arXiv 2110.14168)."""

from __future__ import annotations

from typing import Any

from unmask.tasks.dataset import DataSet
from unmask.tasks.rows import HubSplit, Row

# The prompts of d1 (github.com/dllm-reasoning/d1: diffu-grpo/data_utils.py to train, eval/gsm8k.py to evaluate), which
# the code of arXiv 2512.09106 took over. Training asks for a format only; evaluation also begins the answer.
FORMAT = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
BOXED = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
    "\\boxed{}."
)
EVALUATION = (
    f"{BOXED}\nRespond in the following format:\n"
    "<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>"
)
PREFIX = "<reasoning>"


class GSM8K(DataSet):
    """Prompts of the paper in chats; for base models those of lm-evaluation-harness (tasks/gsm8k/gsm8k.yaml)."""

    known = {"prompt": ("question", "prompt"), "answer": ("answer",)}
    hub = {split: (HubSplit("openai/gsm8k", "main", split),) for split in ("train", "test")}
    own_verifier = "gsm8k"
    stops = ("Question:",)

    def answer(self, row: Row) -> str:
        """What follows ``####``."""
        solution = self.columns.text(row, "answer")
        return solution.rpartition("####")[2].strip()

    def details(self, row: Row) -> dict[str, Any]:
        return {**super().details(row), "solution": self.columns.text(row, "answer")}

    def message(self, row: Row, split: str) -> tuple[str, str]:
        question = self.question(row)
        if self.few_shot:
            question = f"{self.shots}Question: {question}\nAnswer:\n"
        return (f"{FORMAT}\n\n{question}", "") if split == "train" else (f"{EVALUATION}\n\n{question}", PREFIX)

    def plain(self, row: Row) -> str:
        return f"Question: {self.question(row)}\nAnswer:"

    def shot(self, row: Row) -> str:
        return f"{self.plain(row)}{chr(10) if self.chat else ' '}{self.columns.text(row, 'answer')}"
