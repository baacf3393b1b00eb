"""Decoding as a step of a Ray Data pipeline: an actor class for `Dataset.map_batches` (`pip install unmask[ray]`).

    import ray
    from unmask.integrations.ray import Decoder

    rows = ray.data.read_parquet("prompts.parquet")
    rows = rows.map_batches(
        Decoder,
        fn_constructor_kwargs={"model": "GSAI-ML/LLaDA-8B-Instruct", "policy": "runs/mine", "block_length": 32},
        batch_size=1024,
        num_gpus=1,
        concurrency=8,
    )
    rows.write_parquet("texts")

Each actor loads the dLLM once, and refills its batch within each block of rows that it is handed. A row's random
numbers come from its id or its prompt: they do not depend on how Ray splits the rows. Ray is not imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unmask.decoding.decode import decode
from unmask.decoding.generate import Prompt, tokens_of
from unmask.decoding.options import DecodeConfig, check_policy_fits, decode_config, speeds_of
from unmask.decoding.source import check_prompt
from unmask.errors import UnmaskError, nearest
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.settings import check_seed

Columns = dict[str, Any]
MADE = ("text", "tokens", "nfe", "ended")  # columns that rows get


class Decoder:
    """Batches of rows in, the same rows with a text out.

    Args:
        model: a name, or an object from `unmask.load_model`. Ray sends an object to every actor; a name loads there.
        policy: a name, or an object from `unmask.load_policy`.
        config: how to decode, as in `unmask.generate`.
        column: of the prompts: texts, messages of chats, or token ids.
        id_column: whole numbers or texts, each the random stream of its row: an index gives the row that
            `unmask decode` gives it. By default the prompt is, so that equal prompts draw the same.
        speed_column: of each row's speed, for a policy with one.
        chat: a text is a user's message: use the dLLM's chat template.
        seed: of tokens that are drawn and policies that draw.
        model_options: further arguments of `unmask.load_model`, such as ``{"dtype": "bfloat16"}``.
        options: fields of `DecodeConfig`, such as ``gen_length=256, block_length=32``; they override `config`.

    Raises:
        UnmaskError: an unknown model, policy or option; a policy that does not fit; a speed column without a speed.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel | str | None = None,
        policy: Policy | str | Mapping[str, Any] | None = None,
        config: DecodeConfig | None = None,
        *,
        column: str = "prompt",
        id_column: str | None = None,
        speed_column: str | None = None,
        chat: bool = False,
        seed: int = 0,
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._config = decode_config(config, options)  # refused before the dLLM is loaded
        self._policy = policy if isinstance(policy, Policy) else load_policy(policy)
        if speed_column is not None:
            speeds_of(self._policy.needs, None, [0.0], 1)
        loaded = isinstance(model, MaskedDiffusionModel)
        self._model = model if isinstance(model, MaskedDiffusionModel) else load_model(model, **(model_options or {}))
        if loaded and model_options:
            raise UnmaskError("model_options are for a dLLM given by its name: leave them out.")
        check_policy_fits(self._model, self._policy)
        self._gen_length = self._config.resolve(self._model, policy=self._policy).gen_length
        self._column, self._id_column, self._speed_column = column, id_column, speed_column
        self._chat, self._seed = chat, check_seed(seed)

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Decode a batch of rows.

        Args:
            batch: columns of n rows, as arrays or lists.

        Returns:
            All of them, and ``text`` (n,), ``tokens`` (n, l), ``nfe`` (n,) and ``ended`` (n,), as in
            `unmask.Completion`.

        Raises:
            UnmaskError: a column that is not there, or is already; a row that cannot be decoded, by its number.
        """
        for name in MADE:
            if name in batch:
                raise UnmaskError(f"The rows have a column {name!r} already: rename it before they are decoded.")
        prompts = self._column_of(batch, self._column)
        ids = prompts if self._id_column is None else self._column_of(batch, self._id_column)
        speeds = None if self._speed_column is None else self._column_of(batch, self._speed_column)
        tokens = [self._encode(prompt, f"Row {i} of a block of {len(prompts)}") for i, prompt in enumerate(prompts)]
        streams = [_stream(value, hashed=ids is prompts) for value in ids]
        if not tokens:
            made: tuple[Any, ...] = ([], np.zeros((0, self._gen_length), np.int64), np.zeros(0, np.int64), [])
        else:
            call: Columns = {"seed": self._seed, "streams": streams, "speeds": speeds}
            out = decode(self._model, self._policy, tokens, self._config, **call)
            made = (out.texts, out.tokens.cpu().numpy(), out.nfe.cpu().numpy(), out.ended)
        kinds = (object, None, None, object)  # texts of numpy's own lose zeros at their end
        return {**batch, **{name: np.asarray(*each) for name, *each in zip(MADE, made, kinds, strict=True)}}

    def _column_of(self, batch: Mapping[str, Any], name: str) -> list[Any]:
        if name not in batch:
            raise UnmaskError(f"The rows have no column {name!r}: {nearest(name, batch)}")
        return [_plain(value) for value in batch[name]]

    def _encode(self, prompt: Any, name: str) -> Sequence[int]:
        try:
            told: Prompt = [{"role": "user", "content": prompt}] if self._chat and isinstance(prompt, str) else prompt
            tokens = tokens_of(self._model, told, name)
            check_prompt(self._model, tokens, self._gen_length, name)
        except UnmaskError as e:
            raise UnmaskError(f"{name} cannot be decoded ({str(e).rstrip('.')}): filter such rows out.") from None
        return tokens


def _plain(value: Any) -> Any:
    """A cell in Python's terms, without the fields that a message lacks."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [{name: told for name, told in message.items() if told is not None} for message in value]
    return value


def _stream(value: Any, hashed: bool) -> int:
    """The random stream of a row: its number, or a hash that is the same in every process."""
    if not hashed and isinstance(value, int):
        return check_seed(value)
    if not hashed and not isinstance(value, str):
        raise UnmaskError(f"The id of a row is {value!r}: give each a whole number or a text.")
    digest = hashlib.blake2b(json.dumps(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
