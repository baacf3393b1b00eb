"""Right answers without gold ones: those that the dLLM gives when it takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.source import encode_example
from unmask.journal import Journal
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.top_k_confidence import TopKConfidence
from unmask.rl.start import expert_block
from unmask.tasks.base import Example, Task
from unmask.tasks.dataset import DataSet

FILE = "slow_answers.jsonl"


class SlowAnswers(Task):
    """A task whose right answers are those of the dLLM's slow decode; a program is right, too, if it passes its tests.

    One position is revealed a pass, the most confident first, in the task's blocks as far as they divide the policy's.
    A prompt is decoded so when its first answer is judged. Equal texts agree; where the task has a verifier, so do two
    texts that it finds to be the same answer.

    Args:
        task: whose prompts are taken.
        config: how the policy decodes.
        longest: tokens of a prompt at most; of longer ones the end is decoded.
        kept: a file of slow answers, to which new ones are added; of other settings they are left alone.
    """

    verifiable = True

    def __init__(
        self,
        task: Task,
        model: MaskedDiffusionModel,
        config: DecodeConfig,
        longest: int | None = None,
        kept: Path | None = None,
    ) -> None:
        self.task, self.model = task, model
        self.name, self.gen_length = task.name, task.gen_length
        self.block_length, self.endless = task.block_length, task.endless
        block_length = expert_block(None, task, config, "block_length")
        plain: dict[str, Any] = {
            "speed": None,
            "max_steps": None,
            "max_block_steps": None,
            "stop": (),
            "temperature": 0.0,
            "cache": None,
        }
        plain |= {"stop_at_eos": False, "confidence_of": "likeliest", "top_p": 1.0, "top_k": None}
        self.config = config.of(task, model).model_copy(update={**plain, "block_length": block_length})
        room = None if model.max_length is None else model.max_length - self.config.region()
        self.longest = min((n for n in (longest, room) if n is not None), default=None)
        self._kept = None if kept is None else Journal(kept)
        self._of = f"{model.name}: {self.config.model_dump_json(exclude={'batch_size'})}"
        self._known: dict[tuple[int, ...], str] = {}
        if self._kept is not None:
            self._kept.mend()
            rows = self._kept.rows(("of", "prompt", "text"))
            self._known = {tuple(row["prompt"]): row["text"] for row in rows if row["of"] == self._of}

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        return self.task.examples(split, n, seed)

    def prepare(self) -> None:
        self.task.prepare()

    def verify(self, example: Example, text: str) -> bool:
        return self.verify_all([example], [text])[0]

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        slow = self.answers(examples)
        same = [answer.strip() == text.strip() for answer, text in zip(slow, texts, strict=True)]
        if not self.task.verifiable:
            return same
        labelled = [replace(example, answer=answer) for example, answer in zip(examples, slow, strict=True)]
        agree = self.task.verify_all(labelled, texts)  # which may find no answer in either of two equal texts
        return [a or b for a, b in zip(same, agree, strict=True)]

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """The slow decode of each prompt."""
        prompts = [tuple(encode_example(self.model, example)[-(self.longest or 0) :]) for example in examples]
        missing = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._known))
        if missing:
            out = decode(self.model, TopKConfidence(1), missing, self.config)
            fresh = dict(zip(missing, out.texts, strict=True))
            self._known |= fresh
            if self._kept is not None and self._kept.path.parent.is_dir():
                self._kept.append({"of": self._of, "prompt": prompt, "text": text} for prompt, text in fresh.items())
        texts = [self._known[prompt] for prompt in prompts]
        if isinstance(self.task, DataSet):  # a base model goes on with another question
            return [self.task.cut(example, text) for example, text in zip(examples, texts, strict=True)]
        return texts
