"""A dLLM whose every prediction is exact, so that what is lost is the decoding's fault alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory
from unmask.tasks.base import Example
from unmask.tasks.nae_sat import UNKNOWN
from unmask.tasks.puzzle import Puzzle

SPECIAL = {"pad_token": "[PAD]", "eos_token": "[EOS]", "mask_token": "[MASK]", "unk_token": "[UNK]"}


class ExactModel(MaskedDiffusionModel):
    """What a dLLM would say that has learnt a puzzle wholly: each position's shares of the answers still possible.

    Its hidden states are its log-probabilities. Where what stands agrees with no answer, all of them count.

    Args:
        task: a puzzle whose answers can be listed.
    """

    family = "exact"

    def __init__(self, task: Puzzle) -> None:
        if not isinstance(task, Puzzle):
            raise UnmaskError(f"The task {task.name!r} is no puzzle: nothing lists its answers.")
        words = list(dict.fromkeys([*SPECIAL.values(), UNKNOWN, *task.words()]))
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, SPECIAL["unk_token"]))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        super().__init__(
            f"exact, {task.name}",
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL),
            mask_id=words.index(SPECIAL["mask_token"]),
            pad_id=words.index(SPECIAL["pad_token"]),
            eos_ids=[words.index(SPECIAL["eos_token"])],
            vocab_size=len(words),
            max_length=None,
            hidden_size=len(words),
            device=torch.device("cpu"),
        )
        self.task = task
        self._known: dict[tuple[int, ...], Tensor] = {}

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        length = self.task.gen_length
        full = torch.full((*tokens.shape, self.vocab_size), -torch.inf)
        for i, (row, seen) in enumerate(zip(tokens, attention, strict=True)):
            full[i, -length:] = self._shares(row[:-length][seen[:-length]], row[-length:]).log()
        return full.flatten(0, 1)[positions]

    def _shares(self, prompt: Int[Tensor, " p"], region: Int[Tensor, " l"]) -> Float[Tensor, "l v"]:
        """Of each position, over the answers that agree with what stands."""
        answers = self._answers(tuple(prompt.tolist()))
        left = answers[((answers == region) | (region == self.mask_id)).all(dim=1)]
        left = left if len(left) else answers
        counts = torch.zeros(left.shape[1], self.vocab_size)
        return counts.scatter_add_(1, left.T, torch.ones(left.T.shape)) / len(left)

    def _answers(self, prompt: tuple[int, ...]) -> Int[Tensor, "n l"]:
        if prompt not in self._known:
            text = " ".join(self.tokenizer.convert_ids_to_tokens(list(prompt)))
            answers = self.task.answers(Example(text, ""))
            if answers is None:
                raise UnmaskError(f"The answers of {self.task.name!r} are too many to list: take a smaller puzzle.")
            ids = [self.tokenizer.convert_tokens_to_ids(list(answer)) for answer in answers]
            self._known[prompt] = torch.tensor(ids)
        return self._known[prompt]

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        return hidden.clone()
