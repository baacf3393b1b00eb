"""The model seam: what decoding may ask of a dLLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unmask.errors import UnmaskError
from unmask.models.memory import Memory

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}, the content a text or parts of text


class MaskedDiffusionModel(ABC):
    """A frozen dLLM and its tokenizer, for one thread at a time.

    Attributes:
        family: what its architecture is read as.
        network: what holds the weights, if it is one torch module.
        name: what the user loaded, for result rows.
        mask_id: id of the mask token.
        pad_id: id of the padding token.
        eos_ids: (e,) ids that end a text.
        banned_ids: (m,) ids never written, the mask id always among them.
        vocab_size: logits that `head` gives for a position.
        max_length: positions of prompt and region together, None if unbounded.
        hidden_size: width of the last hidden states, None if the family gives none to policies.
        block_length: None if every position sees all others; or else each sees its own block of this many and those
            before it, counted from the row's first token.
        caches: kinds of cache of keys and values that it can be decoded with (`DecodeConfig.cache`).
        revises: it was trained to correct revealed tokens of the current block (LLaDA2.1): what it predicts there may
            replace them.
    """

    family = "dLLM"
    network: torch.nn.Module | None = None
    block_length: int | None = None
    caches: tuple[str, ...] = ()
    revises: bool = False

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mask_id: int,
        pad_id: int,
        eos_ids: Sequence[int],
        vocab_size: int,
        max_length: int | None,
        hidden_size: int | None,
        device: torch.device,
    ) -> None:
        """
        Raises:
            UnmaskError: a mask id outside the vocabulary, or no id that ends a text.
        """
        if not 0 <= mask_id < vocab_size:
            raise UnmaskError(f"mask_id {mask_id} is outside the vocabulary of {name!r} (0 to {vocab_size - 1}).")
        if not eos_ids:
            raise UnmaskError(f"The tokenizer of {name!r} has neither an EOS nor a SEP token: set tokenizer.eos_token.")
        self.name = name
        self.tokenizer = tokenizer
        self.mask_id = mask_id
        self.pad_id = pad_id
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.hidden_size = hidden_size
        self.device = device
        self.eos_ids = torch.tensor(list(eos_ids), dtype=torch.long, device=device)
        self.banned_ids = torch.tensor([mask_id], device=device)

    @abstractmethod
    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        """One forward pass up to the vocabulary head: what `head` needs to predict the token *at* each position.

        Args:
            tokens: left-padded prompt and region.
            attention: False at padding, which is never attended to and takes up no position.
            positions: where predictions are wanted, as flat indices into (b, t), ascending.
            memory: what `memory` began and each pass has moved on; its `inputs` are what the network takes.
        """

    def advance(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "n h"], Memory | None]:
        """`hidden` with what is kept, and what is kept after it, where the network itself moves that on."""
        return self.hidden(tokens, attention, positions, memory), memory

    def computed(
        self, attention: Bool[Tensor, "b t"], asked: Bool[Tensor, "b t"], memory: Memory | None
    ) -> Int[Tensor, " b"]:
        """Positions of each row that such a pass computes.

        Args:
            asked: where predictions are wanted.
        """
        return attention.sum(dim=1) if memory is None else memory.computed(attention)

    @abstractmethod
    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        """The vocabulary head: logits, a fresh tensor that the caller may write into."""

    def memory(self, rows: int, cache: str = "none") -> Memory | None:
        """What it keeps of rows at their first step, for their next passes; None if it keeps nothing.

        Args:
            cache: one of `caches`, or none.
        """
        return None

    @property
    def embeddings(self) -> Float[Tensor, "v h"]:
        """The input embeddings.

        Raises:
            UnmaskError: the family does not show them.
        """
        raise UnmaskError(f"The dLLM {self.name!r} ({self.family}) does not take input embeddings.")

    def compile(self) -> None:
        """Let `torch.compile` make the forward pass faster; its first steps then take minutes.

        Raises:
            UnmaskError: the family does not allow it.
        """
        raise UnmaskError(f"The dLLM {self.name!r} ({self.family}) cannot be compiled: leave out compile.")

    def summary(self) -> str:
        """What was found, in a line: family, size, ids."""
        held = ""
        blocks = "" if self.block_length is None else f" in blocks of {self.block_length}"
        blocks += ", revising" if self.revises else ""
        if self.network is not None:
            weights = list(self.network.parameters())
            size, dtypes = (
                sum(p.nbytes for p in weights),
                sorted({str(p.dtype).removeprefix("torch.") for p in weights}),
            )
            count = sum(p.numel() for p in weights)
            held = f"{count:,} weights in {', '.join(dtypes)} ({size / 2**20:,.0f} MiB) on {self.device}, "
        return (
            f"{self.name}: {self.family}{blocks}, {held}mask id {self.mask_id}, EOS {self.eos_ids.tolist()}, "
            f"vocabulary {self.vocab_size:,}, up to {self.max_length or 'any number of'} positions"
        )

    def logits(
        self, tokens: Int[Tensor, "b t"], attention: Bool[Tensor, "b t"], positions: Int[Tensor, " n"]
    ) -> Float[Tensor, "n v"]:
        """One forward pass; logits that predict the token at each position. See `hidden`."""
        return self.head(self.hidden(tokens, attention, positions))

    def encode(self, prompt: str | Sequence[Message], prefix: str = "") -> list[int]:
        """Token ids of a prompt.

        Args:
            prompt: a text as it is, or the messages of a chat, put through the tokenizer's chat template.
            prefix: how the answer begins, behind the prompt.

        Raises:
            UnmaskError: the text holds words that the tokenizer does not know at all; messages without a template.
        """
        text = (prompt if isinstance(prompt, str) else self.render(prompt)) + prefix
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise UnmaskError(
                f"The prompt {shortened(text)!r} is no text: its character {e.start} is half a surrogate pair; write "
                "it as UTF-8."
            ) from None
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids and unknown not in self.eos_ids.tolist():
            raise UnmaskError(
                f"The prompt {shortened(text)!r} has words that the dLLM {self.name!r} does not know: "
                "use the words of its model card, or another dLLM."
            )
        return list(ids)

    def render(self, messages: Sequence[Message], begins_answer: bool = False) -> str:
        """A chat as the text of a prompt.

        Args:
            begins_answer: the last message is the beginning of the answer.

        Raises:
            UnmaskError: the tokenizer has no chat template, or one that refuses these messages.
        """
        if not self.has_chat_template:
            raise UnmaskError(
                f"The tokenizer of the dLLM {self.name!r} has no chat template: pass a text instead of messages."
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [plain_message(message, i) for i, message in enumerate(messages)],
                    tokenize=False,
                    add_generation_prompt=not begins_answer,
                    continue_final_message=begins_answer,
                )
            )
        except TemplateError as e:
            roles = ", ".join(str(message.get("role", "no role")) for message in messages)
            raise UnmaskError(
                f"The chat template of {self.name!r} refuses a chat of the roles {roles} ({e}): give each message "
                "a content and a role that it knows (often user and assistant, without system), or pass a text."
            ) from None

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode` takes messages."""
        return bool(self.tokenizer.chat_template)

    def text(self, tokens: Sequence[int], *, after_eos: bool = False, show_masks: bool = True) -> str:
        """The text of a region, special tokens left out.

        Args:
            after_eos: with what stands behind the first EOS, which is cut off by default.
            show_masks: a mask is shown, as `[MASK]`.
        """
        ends = set(self.eos_ids.tolist())
        cut = None if after_eos else next((i for i, token in enumerate(tokens) if token in ends), None)
        skip = {*self.tokenizer.all_special_ids, *ends, self.mask_id} - ({self.mask_id} if show_masks else set())
        return str(self.tokenizer.decode([token for token in tokens[:cut] if token not in skip]))


def shortened(text: str, most: int = 200) -> str:
    """A text as a message quotes it."""
    return text if len(text) <= most else f"{text[:most]}…"


def plain_message(message: Message, i: int) -> dict[str, Any]:
    """A message whose content is one text; its parts of text, as OpenAI's API has them, are joined.

    Raises:
        UnmaskError: another kind of content, or a part that is no text, such as an image.
    """
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        content = "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise UnmaskError(
            f"The content of message {i} of a chat is {message.get('content')!r}: give a text, or parts of text."
        )
    return {**message, "content": content}
