"""What decoding refuses, each in one sentence."""

import subprocess
import sys

import pytest
import torch

from tests.conftest import make_tiny
from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.decode import decode
from unmask.decoding.generate import generate
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.policies import ConfidenceThreshold

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


def test_names_instead_of_objects_are_refused():
    """In a process of its own: here the type checker would speak first."""
    program = """
import unmask
model, policy = unmask.load_model(), unmask.load_policy("factor")
for pair in (("house-base", policy), (model, "factor"), (model, unmask.policies.Factor)):
    try:
        unmask.generate(*pair, "hall: red?", gen_length=8)
    except unmask.UnmaskError as e:
        print(e)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    sentence = "Pass a dLLM and a policy, as unmask.load_model(...) and unmask.load_policy(...) give them."
    assert done.stdout.splitlines() == [sentence] * 3, done.stderr


def test_prompts_of_other_kinds_are_refused():
    """In a process of its own: here the type checker would speak first."""
    program = """
import unmask
from unmask.decoding.decode import decode
model, policy, ids = unmask.load_model(), unmask.load_policy("factor"), [5, 6]
message = {"role": "user", "content": "x"}
calls = [([message], {}), (message, {}), (ids, {}), (None, {}), ([None], {}), ([b"hall"], {})]
calls += [([[5, 999999]], {}), ([[5, -1]], {})]
calls += [([[5, 1.5]], {}), ([ids], {"seed": None}), ([ids], {"seed": "a"}), ([ids], {"seed": 2**63})]
calls += [([ids], {"config": {"gen_length": 8}}), ([ids], {"temperature": 1e-300}), ([ids], {"batch_size": 10**24})]
for prompts, options in calls:
    try:
        unmask.generate(model, policy, prompts, **options)
    except unmask.UnmaskError as e:
        print(e)
for streams in ([0], []):
    try:
        decode(model, policy, [ids, ids], streams=streams)
    except unmask.UnmaskError as e:
        print(e)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seed = "give a whole number of at most 64 bits."
    kinds = "give a text, the messages of a chat, or a list of token ids; one list of ids is one prompt, as in [ids]."
    last = load_model().vocab_size - 1
    assert done.stdout.splitlines() == [
        "Prompt 0 is one message of a chat: put each chat into a list of its own, as in [chat].",
        "The prompts are a dict: give a text, or a list of prompts.",
        f"Prompt 0 is 5: {kinds}",
        "The prompts are a NoneType: give a text, or a list of prompts.",
        f"Prompt 0 is None: {kinds}",
        f"Prompt 0 is b'hall': {kinds}",
        *(
            f"Prompt 0 holds {token}, which is no token id of 'house-base': give whole numbers from 0 to {last}, or a "
            "text."
            for token in (999999, -1, 1.5)
        ),
        *(f"The seed is {value}: {seed}" for value in ("None", "'a'", 2**63)),
        "The config is a dict: pass an unmask.DecodeConfig, or options by name, such as gen_length=256.",
        f"{BAD}: temperature = 1e-300 (too small to divide by: give 0, which takes the likeliest, or at least 1e-06).",
        f"{BAD}: batch_size = {10**24} (give a whole number of at most 64 bits).",
        "There are 1 streams for 2 prompts: give one per prompt.",
        "There are 0 streams for 2 prompts: give one per prompt.",
    ], done.stderr


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


def test_names_and_numbers_of_other_kinds_are_refused():
    """In a process of its own: here the type checker would speak first."""
    program = """
import unmask
for call in (lambda: unmask.load_task(7), lambda: unmask.load_task(["house", 7]), lambda: unmask.load_policy(" "),
             *(lambda n=n: unmask.load_task("house").examples("test", n) for n in (float("nan"), "3", 1.5))):
    try:
        call()
    except unmask.UnmaskError as e:
        print(e)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "The task is 7: give its name, or a list of names.",
        "The task is ['house', 7]: give its name, or a list of names.",
        "The name of the policy is empty: give a name, a folder or a rule.",
        *(
            f"The number of examples is {n}: give a whole number from 0, or None for all."
            for n in ("nan", "'3'", "1.5")
        ),
    ], done.stderr


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
