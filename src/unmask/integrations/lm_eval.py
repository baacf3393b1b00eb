"""A dLLM and a policy as a model of EleutherAI's lm-evaluation-harness (`pip install unmask[eval]`).

    from unmask.integrations.lm_eval import UnmaskLM, evaluate_tasks

    lm = UnmaskLM("GSAI-ML/LLaDA-8B-Instruct", "path-of-a-policy", gen_length=256, block_length=32)
    results = evaluate_tasks(lm, ["gsm8k"], limit=100)
    results["results"], results["unmask"]["tasks"]["gsm8k"]  # the harness's metrics; mean NFE, TPF, ...

Importing this module registers the model ``unmask``. The harness's own command looks for no plugins, so run it as
``python -m unmask.integrations.lm_eval run --model unmask --model_args policy=... --tasks gsm8k``: NFE and TPF are then
in ``config.unmask`` of its results file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import lm_eval.models  # noqa: F401 (the harness registers its own models only where it finds none)
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager

from unmask.decoding.blocks import parse_block_length
from unmask.decoding.decode import stream
from unmask.decoding.options import CacheKind, DecodeConfig, check_policy_fits, decode_config
from unmask.decoding.source import check_prompt
from unmask.errors import UnmaskError
from unmask.integrations.lm_eval_answers import Answer, Answers
from unmask.integrations.lm_eval_tasks import (
    Spent,
    add_spent,
    check_task,
    load_tasks,
    means_of,
    no_likelihoods,
    outside_of_git,
    reason,
)
from unmask.journal import Halted
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.provenance import versions

DEFAULT_GEN_LENGTH = 256  # the harness's own default of max_gen_toks
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first given counts
SAMPLERS = ("top_p", "top_k", "min_p")  # without effect where nothing is drawn
HELD = ("top_p", "top_k")  # of those, what decoding has
OFF = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "top_p": 1, "top_k": 0, "min_p": 0}
ALL_TOKENS = (0, -1)  # of top_k, in other engines


@dataclass(frozen=True)
class _Asked:
    """A request, read.

    Attributes:
        tokens: of its prompt.
        options: of decoding; requests that share them share a call of `stream`.
        until: stop strings.
    """

    tokens: Sequence[int]
    options: tuple[tuple[str, Any], ...]
    until: tuple[str, ...]


@register_model("unmask")
class UnmaskLM(LM):  # type: ignore[misc]
    """Answers ``generate_until`` requests; a dLLM decoded by a policy gives no likelihoods.

    Args:
        model: a name, or an object from `unmask.load_model`.
        policy: a name, or an object from `unmask.load_policy`.
        gen_length: of every request; None takes each task's ``max_gen_toks`` (256 where it has none), rounded up to
            whole blocks.
        block_length: as in `unmask.generate`.
        batch_size: as in `unmask.generate`.
        seed: as in `unmask.generate`.
        stop_at_eos: as in `unmask.generate`.
        suppress_eos: as in `unmask.generate`.
        speed: as in `unmask.generate`.
        cache: as in `DecodeConfig`.
        temperature: of every request; None takes each task's ``temperature`` and ``do_sample``.
        dtype: as in `unmask.load_model`, of a dLLM given by name.
        device: as in `unmask.load_model`, of a dLLM given by name.
        answers: where answers are kept, and which processes share the requests; by default in memory, in this one.
        on_ended: called with the number of requests that have ended and of all that this process answers.

    Attributes:
        answers: as given.
        spent: one `Spent` a request of the last call, in their order.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel | str | None = None,
        policy: Policy | str | Mapping[str, Any] | None = None,
        *,
        gen_length: int | None = None,
        block_length: int | str | None = None,
        batch_size: int | str = 32,
        temperature: float | None = None,
        seed: int = 0,
        stop_at_eos: bool = True,
        suppress_eos: bool = False,
        speed: float | None = None,
        cache: CacheKind | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | None = None,
        answers: Answers | None = None,
        on_ended: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit():
            raise UnmaskError(f"batch_size must be a number of active rows, not {batch_size!r}: try 32.")
        if not isinstance(model, MaskedDiffusionModel):
            there = torch.cuda.is_available() or not str(device).startswith("cuda")  # the harness's command says cuda:0
            model = load_model(model, dtype=dtype, device=device if there else None)
        self.model = model
        self.policy = policy if isinstance(policy, Policy) else load_policy(policy)
        check_policy_fits(self.model, self.policy)
        self.spent: list[Spent] = []
        self._gen_length, self._temperature, self._on_ended = gen_length, temperature, on_ended
        self._seed, self._ended = seed, 0
        self.answers = answers or Answers()
        self._options: dict[str, Any] = {
            "block_length": parse_block_length(block_length),
            "batch_size": int(batch_size),
            "stop_at_eos": stop_at_eos,
            "suppress_eos": suppress_eos,
            "speed": speed,
            "cache": cache,
        }
        decode_config(None, self._options)  # refused before data are loaded

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts in the order of the requests. Those of the same options and stop strings share one call of `stream`;
        each draws from the stream of its place among all."""
        asked = [self._read(request) for request in requests]
        answers = self.answers
        self._ended = 0
        mine = answers.begin(self._settings(), [[list(one.tokens), one.options, one.until] for one in asked])
        with answers.answering(), suppress(Halted):
            for options, until in dict.fromkeys((asked[i].options, asked[i].until) for i in mine):
                places = [i for i in mine if (asked[i].options, asked[i].until) == (options, until)]
                self._answer(requests, places, [asked[i].tokens for i in places], dict(options), until, len(mine))
        found = answers.all()
        self.spent = [one.spent for one in found]
        return [one.text for one in found]

    def _answer(
        self,
        requests: Sequence[Instance],
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        options: Mapping[str, Any],
        until: tuple[str, ...],
        total: int,
    ) -> None:
        stop = until if self._options["stop_at_eos"] else ()  # else NFE is counted to the last position
        config = DecodeConfig(**options, stop=tuple(text for text in stop if text), **self._options)
        call: dict[str, Any] = {"seed": self._seed, "streams": places, "callback": lambda step: self.answers.check()}
        for batch in stream(self.model, self.policy, prompts, config, **call):
            made = {}
            for one in batch.completions():
                request = requests[places[one.index]]
                text, length = self._cut(one.tokens, until)
                shown = sum(step >= 0 for step in one.revealed_at[:length])
                cost = Spent(request.task_name, request.doc_id, config.region(), one.nfe, shown, one.ended)
                made[places[one.index]] = Answer(text, cost)
            self.answers.add(made)
            self._ended += len(made)
            if self._on_ended is not None:
                self._on_ended(self._ended, total)

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        raise no_likelihoods("Multiple choice and perplexity tasks need")

    def loglikelihood_rolling(self, requests: list[Instance]) -> NoReturn:
        raise no_likelihoods("Multiple choice and perplexity tasks need")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat; without `add_generation_prompt`, its last message is the answer's beginning."""
        return self.model.render(chat_history, begins_answer=not add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template, for the results file."""
        if not chat_template:
            return ""
        if isinstance(chat_template, str) or not self.model.has_chat_template:
            kind = f"chat template named {chat_template!r}" if isinstance(chat_template, str) else "chat template"
            raise UnmaskError(f"The tokenizer of the dLLM {self.model.name!r} has no {kind}: leave the option out.")
        return str(self.model.tokenizer.chat_template)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.model.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness puts into ``config`` of its results: the settings, and what the last call spent."""
        names = dict.fromkeys(one.task for one in self.spent)
        return {
            "unmask": {
                **self._settings(),
                "batch_size": self._options["batch_size"],
                **means_of(self.spent),
                "tasks": {str(name): means_of([one for one in self.spent if one.task == name]) for name in names},
            }
        }

    def _settings(self) -> dict[str, Any]:
        """What answers depend on, beside their requests."""
        return {
            "model": self.model.name,
            "policy": {"type": self.policy.type_name, **self.policy.config()},
            "temperature": self._temperature,
            "seed": self._seed,
            **DecodeConfig(**self._options).model_dump(include=set(self._options) - {"batch_size"}),
            "versions": versions(),
        }

    def _read(self, request: Instance) -> _Asked:
        context, given = request.args
        task, asked = f"The task {request.task_name!r}", dict(given)
        until = asked.pop("until", None) or ()
        lengths = [value for name in LENGTHS if (value := asked.pop(name, None)) is not None]
        do_sample, temperature = asked.pop("do_sample", None), asked.pop("temperature", None)
        if self._temperature is not None:
            temperature = self._temperature
        elif do_sample is False:
            temperature = 0.0
        elif do_sample and temperature is None:
            raise UnmaskError(f"{task} asks for do_sample without a temperature: give one, 0 for the likeliest tokens.")
        temperature = float(temperature or 0)
        options: dict[str, Any] = {"temperature": temperature}
        for name, value in asked.items():
            if (
                value is None
                or OFF.get(name) == value
                or (name == "top_k" and value in ALL_TOKENS)
                or (name in SAMPLERS and not temperature)
            ):
                continue
            if name in HELD:
                options[name] = value
                continue
            instead = " or set the temperature to 0" if name in SAMPLERS else ""
            raise UnmaskError(
                f"{task} asks for {name} = {value!r}, which decoding by a policy does not have: leave it out of its "
                f"generation_kwargs{instead}."
            )
        gen_length = self._gen_length
        if gen_length is None:
            gen_length = int(next(iter(lengths), DEFAULT_GEN_LENGTH))
            blocks = self._options["block_length"]
            gen_length += -gen_length % blocks if isinstance(blocks, int) and blocks > 0 else 0
        options = {"gen_length": gen_length, **options}
        decode_config(None, options)  # refused before any is decoded
        tokens = self.model.encode(context)
        check_prompt(self.model, tokens, gen_length, f"Document {request.doc_id} of {request.task_name!r}")
        return _Asked(tokens, tuple(options.items()), (until,) if isinstance(until, str) else tuple(until))

    def _cut(self, tokens: Sequence[int], until: Sequence[str]) -> tuple[str, int]:
        """The text up to its earliest stop string, and how many tokens it takes."""
        tokenizer, text = self.model.tokenizer, self.model.text
        special = set(until) & set(tokenizer.all_special_tokens)  # which the text leaves out
        stops = {tokenizer.convert_tokens_to_ids(stop) for stop in special}
        tokens = tokens[: next((i for i, token in enumerate(tokens) if token in stops), len(tokens))]
        whole = text(tokens)
        cut = whole[: min((at for stop in until if stop and (at := whole.find(stop)) >= 0), default=len(whole))]
        return cut, bisect_left(range(len(tokens)), len(cut.rstrip()), key=lambda n: len(text(tokens[:n])))


def evaluate_tasks(
    lm: UnmaskLM,
    tasks: Sequence[str],
    *,
    include_path: str | Path | None = None,
    limit: float | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool = True,
    system_instruction: str | None = None,
    log_samples: bool = False,
    confirm_run_unsafe_code: bool = False,
) -> dict[str, Any]:
    """Run the harness.

    Args:
        tasks: names of tasks, groups and tags, patterns of them (``mmlu_*``), or task files (.yaml).
        include_path: folder with further task files.
        limit: documents a task, or their share if below 1.
        log_samples: keep ``samples``, each with its ``nfe`` and ``tpf`` (means over the document's requests).
        confirm_run_unsafe_code: let tasks run what the dLLM wrote.
        num_fewshot: as in `lm_eval.simple_evaluate`.
        apply_chat_template: as in `lm_eval.simple_evaluate`.
        fewshot_as_multiturn: as in `lm_eval.simple_evaluate`.
        system_instruction: as in `lm_eval.simple_evaluate`.

    Returns:
        The harness's results, with settings, NFE and TPF (overall and of each task) under ``unmask``.

    Raises:
        UnmaskError: an unknown task, one that cannot be loaded, one that needs likelihoods.
        Answered: where processes share the requests, in all but the first.
    """
    lm.chat_template(apply_chat_template)  # refused before data are loaded
    if limit is not None and not limit > 0:
        raise UnmaskError(f"limit must be a number of documents, or their share between 0 and 1, not {limit}.")
    built, manager = load_tasks(tasks, include_path), TaskManager(include_defaults=False)
    try:
        loaded = manager.load(built)["tasks"]
    except ValueError as e:
        raise UnmaskError(f"{reason(e)}: name each task once, or its group.") from None
    for name, task in loaded.items():
        check_task(name, task, confirm_run_unsafe_code)
    with outside_of_git():
        results: dict[str, Any] = simple_evaluate(
            lm,
            tasks=built,
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=fewshot_as_multiturn and apply_chat_template,
            system_instruction=system_instruction,
            log_samples=log_samples,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )
    results["unmask"] = results["config"].pop("unmask")
    add_spent(results.get("samples", {}), lm.spent)
    return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
