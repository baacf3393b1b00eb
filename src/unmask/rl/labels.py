"""Right answers without gold ones: those that the dLLM gives when it takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.source import encode_example
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.top_k_confidence import TopKConfidence
from unmask.rl.start import expert_block
from unmask.tasks.base import Example, Task
from unmask.tasks.dataset import DataSet


class SlowAnswers(Task):
    """A task whose right answers are those of the dLLM's slow decode; only tests of programs still decide as they do.

    One position is revealed a pass, the most confident first, in the task's blocks as far as they divide the policy's.
    Where the task has a verifier, it compares the two texts; else they must be equal.

    Args:
        task: whose prompts are taken.
        config: how the policy decodes.
        longest: tokens of a prompt at most; of longer ones the end is decoded.
    """

    verifiable = True

    def __init__(
        self, task: Task, model: MaskedDiffusionModel, config: DecodeConfig, longest: int | None = None
    ) -> None:
        self.task, self.model = task, model
        self.name, self.gen_length = task.name, task.gen_length
        self.block_length, self.endless = task.block_length, task.endless
        block_length = expert_block(None, task, config, "block_length")
        plain = {"speed": None, "max_steps": None, "temperature": 0.0, "stop_at_eos": False}
        self.config = config.of(task, model).model_copy(update={**plain, "block_length": block_length})
        room = None if model.max_length is None else model.max_length - self.config.region()
        self.longest = min((n for n in (longest, room) if n is not None), default=None)

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """The task's, with the dLLM's slow texts in place of the gold answers."""
        found = self.task.examples(split, n, seed)
        prompts = [encode_example(self.model, example)[-(self.longest or 0) :] for example in found]
        out = decode(self.model, TopKConfidence(1), prompts, self.config)
        texts = out.texts
        if isinstance(self.task, DataSet):  # a base model goes on with another question
            texts = [self.task.cut(example, text) for example, text in zip(found, texts, strict=True)]
        return [replace(example, answer=text) for example, text in zip(found, texts, strict=True)]

    def prepare(self) -> None:
        self.task.prepare()

    def verify(self, example: Example, text: str) -> bool:
        return self.verify_all([example], [text])[0]

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        if self.task.verifiable:
            return self.task.verify_all(examples, texts)
        return [example.answer.strip() == text.strip() for example, text in zip(examples, texts, strict=True)]
