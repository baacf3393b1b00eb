"""What decoding refuses, each in one sentence."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch

from tests.conftest import make_tiny
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.decode import decode
from unmask.decoding.generate import generate
from unmask.errors import UnmaskError
from unmask.policies import ConfidenceThreshold, Factor
from unmask.policies.auto import load_policy
from unmask.tasks.auto import load_task

TINY = make_tiny()

BAD = "Bad value in the decoding options"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gen_length": 8, "block_length": 3}, "block_length 3 does not divide gen_length 8: use a divisor such as 2."),
        (
            {"gen_length": 0},
            "Bad value in the decoding options: gen_length = 0 (input should be greater than or equal to 1).",
        ),
        ({"gen_length": 95}, "Prompt 0 has 4 tokens and with gen_length 95 needs 99 positions, but the dLLM has 96"),
        ({"gen_length": 8, "batch_size": 0}, f"{BAD}: batch_size = 0 (input should be"),
        (
            {"gen_length": 8, "temperature": -0.5},
            f"{BAD}: temperature = -0.5 (input should be greater than or equal to 0).",
        ),
        (
            {"gen_length": 8, "temperature": float("nan")},
            f"{BAD}: temperature = nan (input should be",
        ),
        ({"gen_lenght": 8}, "Unknown key 'gen_lenght' in the decoding options: did you mean 'gen_length'?"),
        (
            {"gen_length": 8, "block_length": AdaptiveBlocks(delimiters=("red gold",))},
            "The delimiter 'red gold' is 2 tokens of 'tiny': give a single one.",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, message):
    with pytest.raises(UnmaskError) as refused:
        generate(TINY, ConfidenceThreshold(0.9), ["hall: red?"], **options)
    assert str(refused.value).startswith(message)


@pytest.mark.unchecked
@pytest.mark.parametrize("pair", [("tiny", Factor()), (TINY, "factor"), (TINY, Factor)])
def test_names_instead_of_objects_are_refused(pair):
    with pytest.raises(UnmaskError) as refused:
        generate(*pair, "hall: red?", gen_length=8)
    assert str(refused.value) == (
        "Pass a dLLM and a policy, as unmask.load_model(...) and unmask.load_policy(...) give them."
    )


def said_by(calls: Iterable[Callable[[], object]]) -> list[str]:
    """The sentences of calls that are all refused."""
    said = []
    for call in calls:
        with pytest.raises(UnmaskError) as refused:
            call()
        said.append(str(refused.value))
    return said


@pytest.mark.unchecked
def test_prompts_of_other_kinds_are_refused():
    policy, ids, message = Factor(), [5, 6], {"role": "user", "content": "x"}
    given = [([message], {}), (message, {}), (ids, {}), (None, {}), ([None], {}), ([b"hall"], {})]
    given += [([[5, 999999]], {}), ([[5, -1]], {})]
    given += [([[5, 1.5]], {}), ([ids], {"seed": None}), ([ids], {"seed": "a"}), ([ids], {"seed": 2**63})]
    given += [([ids], {"config": {"gen_length": 8}}), ([ids], {"temperature": 1e-300}), ([ids], {"batch_size": 10**24})]
    calls = [partial(generate, TINY, policy, prompts, **options) for prompts, options in given]
    calls += [partial(decode, TINY, policy, [ids, ids], streams=streams) for streams in ([0], [])]
    seed = "give a whole number of at most 64 bits."
    kinds = "give a text, the messages of a chat, or a list of token ids; one list of ids is one prompt, as in [ids]."
    last = TINY.vocab_size - 1
    assert said_by(calls) == [
        "Prompt 0 is one message of a chat: put each chat into a list of its own, as in [chat].",
        "The prompts are a dict: give a text, or a list of prompts.",
        f"Prompt 0 is 5: {kinds}",
        "The prompts are a NoneType: give a text, or a list of prompts.",
        f"Prompt 0 is None: {kinds}",
        f"Prompt 0 is b'hall': {kinds}",
        *(
            f"Prompt 0 holds {token}, which is no token id of 'tiny': give whole numbers from 0 to {last}, or a text."
            for token in (999999, -1, 1.5)
        ),
        *(f"The seed is {value}: {seed}" for value in ("None", "'a'", 2**63)),
        "The config is a dict: pass an unmask.DecodeConfig, or options by name, such as gen_length=256.",
        f"{BAD}: temperature = 1e-300 (too small to divide by: give 0, which takes the likeliest, or at least 1e-06).",
        f"{BAD}: batch_size = {10**24} (give a whole number of at most 64 bits).",
        "There are 1 streams for 2 prompts: give one per prompt.",
        "There are 0 streams for 2 prompts: give one per prompt.",
    ]


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(
        UnmaskError, match=r"The prompt 'hall: \\ud800' is no text: its character 6 is half a surrogate"
    ):
        generate(TINY, ConfidenceThreshold(0.9), "hall: \ud800", gen_length=8)


def test_no_prompt_is_refused():
    with pytest.raises(UnmaskError, match="No prompt was given"):
        generate(TINY, ConfidenceThreshold(0.9), [], gen_length=8)
    with pytest.raises(UnmaskError, match="Prompt 1 is empty"):
        generate(TINY, ConfidenceThreshold(0.9), ["hall: red?", " "], gen_length=8)


def test_nan_logits_are_refused():
    broken = make_tiny()
    with torch.no_grad():
        broken.network.lm_head.decoder.bias.fill_(torch.nan)
    with pytest.raises(UnmaskError, match="The dLLM .tiny. returned NaN logits"):
        generate(broken, ConfidenceThreshold(0.9), ["hall: red?"], gen_length=8)


@pytest.mark.unchecked
def test_names_and_numbers_of_other_kinds_are_refused():
    named = [partial(load_task, 7), partial(load_task, ["house", 7]), partial(load_policy, " ")]
    examples = load_task("house").examples
    assert said_by([*named, *(partial(examples, "test", n) for n in (float("nan"), "3", 1.5))]) == [
        "The task is 7: give its name, or a list of names.",
        "The task is ['house', 7]: give its name, or a list of names.",
        "The name of the policy is empty: give a name, a folder or a rule.",
        *(
            f"The number of examples is {n}: give a whole number from 0, or None for all."
            for n in ("nan", "'3'", "1.5")
        ),
    ]


def test_too_little_memory_says_which_batch_size_to_try(tiny, monkeypatch):
    def full(tokens, *args):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return original(tokens, *args)

    original = tiny.hidden
    monkeypatch.setattr(tiny, "hidden", full)
    policy, prompts = ConfidenceThreshold(0.5), [[5 + i, 6] for i in range(8)]
    message = r"cpu has too little memory for a pass of 8 rows of 10 positions: try batch_size 4\."
    with pytest.raises(UnmaskError, match=message):
        decode(tiny, policy, prompts, gen_length=8)
    assert len(decode(tiny, policy, prompts, gen_length=8, batch_size=2)) == 8

    def broken(tokens, *args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tiny, "hidden", broken)
    with pytest.raises(UnmaskError, match="of 1 rows of 10 positions: take a smaller dtype"):
        decode(tiny, policy, prompts[:1], gen_length=8)

    def other(tokens, *args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(tiny, "hidden", other)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        decode(tiny, policy, prompts[:1], gen_length=8)
