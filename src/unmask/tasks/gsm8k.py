"""GSM8K: grade-school mathematics (arXiv 2110.14168)."""

from __future__ import annotations

from typing import Any

from unmask.tasks.d1_prompts import EVALUATION, PREFIX, TRAINING
from unmask.tasks.dataset import Format, Prompts, other_columns, prompt_of
from unmask.tasks.rows import HubSplit, Row


def _answer(row: Row) -> str:
    """What follows ``####``."""
    return row.text("answer").rpartition("####")[2].strip()


def _details(row: Row) -> dict[str, Any]:
    return {**other_columns(row), "solution": row.text("answer")}


def _message(row: Row, split: str, shots: str) -> tuple[str, str]:
    question = f"{shots}Question: {prompt_of(row)}\nAnswer:\n" if shots else prompt_of(row)
    return (f"{TRAINING}\n\n{question}", "") if split == "train" else (f"{EVALUATION}\n\n{question}", PREFIX)


def _plain(row: Row) -> str:
    return f"Question: {prompt_of(row)}\nAnswer:"


def _shot(row: Row, chat: bool) -> str:
    return f"{_plain(row)}{chr(10) if chat else ' '}{row.text('answer')}"


# Prompts of the paper in chats; for base models those of lm-evaluation-harness (tasks/gsm8k/gsm8k.yaml).
GSM8K = Format(
    columns={"prompt": ("question", "prompt"), "answer": ("answer",)},
    hub={split: (HubSplit("openai/gsm8k", "main", split),) for split in ("train", "test")},
    prompts=Prompts(_message, _plain, _shot, stops=("Question:",)),
    verifier="gsm8k",
    answer=_answer,
    details=_details,
)
