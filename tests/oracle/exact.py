"""A dLLM whose every prediction is exact: each position's distribution over the answers that are still possible."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unmask.models.base import MaskedDiffusionModel
from unmask.tasks.base import Example
from unmask.tasks.puzzle import Puzzle


class ExactModel(MaskedDiffusionModel):
    """What a dLLM would say that has learnt a puzzle wholly; its hidden states are its log-probabilities."""

    def __init__(self, task: Puzzle) -> None:
        words = list(dict.fromkeys(["[PAD]", "[EOS]", "[MASK]", "[UNK]", "?", *task.words()]))
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"pad_token": "[PAD]", "eos_token": "[EOS]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
        super().__init__(
            "exact",
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
            mask_id=2,
            pad_id=0,
            eos_ids=[1],
            vocab_size=len(words),
            max_length=None,
            hidden_size=len(words),
            device=torch.device("cpu"),
        )
        self.task, self.known = task, {}

    def hidden(self, tokens, attention, positions, memory=None):
        rows = [self._row(row[seen]) for row, seen in zip(tokens, attention, strict=True)]
        width = tokens.shape[1]
        full = torch.full((len(tokens), width, self.vocab_size), -torch.inf)
        for i, found in enumerate(rows):
            full[i, width - len(found) :] = found
        return full.flatten(0, 1)[positions]

    def _row(self, tokens):
        prompt, region = tokens[: -self.task.gen_length], tokens[-self.task.gen_length :]
        text = " ".join(self.tokenizer.convert_ids_to_tokens(prompt.tolist()))
        if text not in self.known:
            answers = self.task.answers(Example(text, ""))
            self.known[text] = torch.tensor([self.tokenizer.convert_tokens_to_ids(list(one)) for one in answers])
        answers = self.known[text]
        left = answers[((answers == region) | (region == self.mask_id)).all(dim=1)]
        if not len(left):  # nothing is right any more: whatever was
            left = answers
        p = torch.nn.functional.one_hot(left, self.vocab_size).float().mean(dim=0)
        return torch.cat([p.new_full((len(prompt), self.vocab_size), -torch.inf), p.log()])

    def head(self, hidden):
        return hidden.clone()
