"""What is kept of how a prompt was decoded, against a plain record of every step, and words by real tokenizers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unmask.decoding.generate import generate
from unmask.decoding.state import Step
from unmask.decoding.trajectory import Recorder, words_of
from unmask.models.auto import load_model
from unmask.models.masked_lm import MaskedLM
from unmask.policies import ConfidenceThreshold, RandomOrder, load_policy
from unmask.pretrain import PretrainConfig, build_network
from unmask.tasks.auto import load_task

SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}
TEXTS = ["What is 12 * 7? It's 84.", "naïve café, 東京 🙂🙃 — don't", "red blue gold green, the answer is hall."]


@pytest.fixture(scope="module")
def house():
    return load_model()


def wrapped(tokenizer: Tokenizer, clean_up: bool = False) -> MaskedLM:
    """A random dLLM that writes with a tokenizer."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=clean_up, **SPECIAL)
    return MaskedLM("random", build_network(PretrainConfig(layers=1, width=16, heads=2), fast), fast)


def byte_level() -> MaskedLM:
    """As LLaDA's and Dream's: tokens are bytes, spaces lead."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[::2], trainer)
    return wrapped(tokenizer)


def with_byte_fallback() -> MaskedLM:
    """As SentencePiece's: a sign for a space, bytes for what is not in the vocabulary, no space in front."""
    words = [*SPECIAL.values(), "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁red", "▁blue", "▁", "go", "ld"]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=3, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(tokenizer)


def with_cleanup() -> MaskedLM:
    """As BERT's: spaces are taken away again, also before what stands already."""
    words = [*SPECIAL.values(), "<unk>", "don", "'", "t", "##ing", ",", "go"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,']"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return wrapped(tokenizer, clean_up=True)


TOKENIZERS = {"byte-level": byte_level(), "byte fallback": with_byte_fallback(), "clean-up": with_cleanup()}


def recorded(model, policy, prompts, rows, **options):
    """Trajectories of rows, what decoding gave, and every step as it was."""
    recorder, steps = Recorder(rows), []

    def look(step: Step) -> None:
        recorder(step)
        steps.append(step)

    out = generate(model, policy, prompts, callback=look, **options)
    return [recorder.trajectory(model, prompts[row], out[row]) for row in rows], out, steps


def plain_confidence(steps, row, length):
    """The confidence of each position when it was revealed, read off step by step."""
    found = [0.0] * length
    for step in steps:
        for i in (step.before.row == row).nonzero()[:, 0].tolist():
            for position in step.action[i].nonzero()[:, 0].tolist():
                found[position] = step.observation.confidence[i, position, 0].item()
    return found


@pytest.mark.parametrize("policy", [None, "confidence_threshold:threshold=0.9", "random_order:k=3"])
def test_words_are_the_text_and_the_rest_is_what_decoding_gives(house, policy):
    prompts = [example.prompt for example in load_task().examples("test", 7)]
    rows = [5, 0, 3]
    found, out, steps = recorded(house, load_policy(policy), prompts, rows, gen_length=32, batch_size=3)
    assert len({tuple(step.before.row.tolist()) for step in steps}) >= 3, "rows end and others take their places"
    for row, t in zip(rows, found, strict=True):
        assert "".join(word for word, end in zip(t.words, t.end, strict=True) if not end) == t.text == out.texts[row]
        assert t.prompt == prompts[row]
        assert t.revealed_at == out.revealed_at[row].tolist()
        assert (t.nfe, t.ended) == (int(out.nfe[row]), out.ended[row])
        assert t.confidence == pytest.approx(plain_confidence(steps, row, 32), rel=1e-3)
        for sure, at in zip(t.confidence, t.revealed_at, strict=True):
            assert 0 < sure <= 1 if at >= 0 else sure == 0
        eos = (out.tokens[row] == house.eos_ids).int().argmax()
        assert t.end == [i >= eos for i in range(32)]


def test_a_row_is_recorded_the_same_alone(house):
    prompts = [example.prompt for example in load_task().examples("test", 4)]
    together, _, _ = recorded(house, ConfidenceThreshold(0.9), prompts, [0, 1, 2, 3], gen_length=32)
    for prompt, t in zip(prompts, together, strict=True):
        alone = recorded(house, ConfidenceThreshold(0.9), [prompt], [0], gen_length=32)[0][0]
        assert (alone.words, alone.revealed_at) == (t.words, t.revealed_at)
        assert alone.confidence == pytest.approx(t.confidence, abs=1e-3)


def test_a_recorder_keeps_rows_asked_for_and_serves_one_call_after_another(house):
    recorder = Recorder([1, 1])
    assert [recorder.has(row) for row in (0, 1, 2)] == [False, True, False]
    prompts = ["hall: red blue?", "attic: gold green?", "porch: red red?"]
    for policy in (RandomOrder(1), RandomOrder(8)):
        out = generate(house, policy, prompts, gen_length=16, max_steps=4, callback=recorder)
        t = recorder.trajectory(house, prompts[1], out[1])
        assert [at >= 0 for at in t.revealed_at] == [sure > 0 for sure in t.confidence]
    out = generate(house, RandomOrder(8), prompts, gen_length=16, callback=Recorder([]))
    assert len(out) == 3


def test_what_was_never_revealed_has_no_word_and_no_confidence(house):
    (t,), out, _ = recorded(house, RandomOrder(2), ["hall: red blue gold?"], [0], gen_length=16, max_steps=3)
    assert t.ended == "budget"
    never = [at < 0 for at in t.revealed_at]
    assert sum(never) == 10
    assert all(word == "" and sure == 0 for word, sure, no in zip(t.words, t.confidence, never, strict=True) if no)
    assert "[MASK]" in out.texts[0]
    assert "[MASK]" not in "".join(t.words)


def test_an_eos_held_back_has_no_confidence(house):
    (t,), _, steps = recorded(house, RandomOrder(2), ["hall: red blue?"], [0], gen_length=32, suppress_eos=True)
    held = [i for i, (sure, at) in enumerate(zip(t.confidence, t.revealed_at, strict=True)) if at >= 0 and sure == 0]
    assert held
    for i in held:
        step = steps[t.revealed_at[i]]
        assert step.written[0, i] in house.eos_ids
        assert step.observation.confidence[0, i, 0] == 0


def test_words_dropped_behind_the_eos_are_kept(house):
    prompts = ["hall: red?", "attic: blue?", "porch: gold green?", "garage: red red?"]
    found, out, steps = recorded(house, RandomOrder(2), prompts, [0, 1, 2, 3], gen_length=32, temperature=2.0)
    dropped = [(row, i) for row, t in enumerate(found) for i, word in enumerate(t.words) if t.end[i] and word.strip()]
    assert dropped
    for row, i in dropped:
        assert out.tokens[row, i] in house.eos_ids
        place = [(step.before.row == row).nonzero()[0, 0] for step in steps[: out.nfe[row]]]
        written = [step.written[at, i] for step, at in zip(steps, place, strict=False) if step.action[at, i]]
        assert [house.tokenizer.decode([token]) for token in written] == [found[row].words[i].strip()]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_words(text):
    model = TOKENIZERS["byte-level"]
    tokens = model.encode(text)
    words = words_of(model, tokens)
    assert "".join(words) == text
    assert "\ufffd" not in "".join(words)
    assert any(word.startswith(" ") for word in words), "leading spaces stay"


def test_a_character_stands_at_the_last_of_its_tokens():
    model = TOKENIZERS["byte-level"]
    assert len(model.encode("a🙂b")) == 6
    assert words_of(model, model.encode("a🙂b")) == ["a", "", "", "", "🙂", "b"]
    half = model.encode("a🙂b")[:3]
    assert "".join(words_of(model, half)) == "a\ufffd", "half a character stays one that cannot be read"
    model = TOKENIZERS["byte fallback"]
    tokens = model.tokenizer.convert_tokens_to_ids(["▁red", "▁", "<0xC3>", "<0xAF>", "▁blue", "go", "ld"])
    assert words_of(model, tokens) == ["red", " ", "", "ï", " blue", "go", "ld"]


def test_a_decoder_that_takes_a_space_back():
    model = TOKENIZERS["clean-up"]
    tokens = model.tokenizer.convert_tokens_to_ids(["don", "'", "t", ",", "go", "##ing"])
    assert model.tokenizer.decode(tokens[:2]) == "don '"
    assert words_of(model, tokens) == ["don", "", "'t", ",", " go", "ing"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), st.data())
def test_words_of_any_tokens_are_their_text(name, data):
    model = TOKENIZERS[name]
    tokens = data.draw(st.lists(st.integers(0, len(model.tokenizer) - 1), max_size=24))
    words = words_of(model, tokens)
    special = {*model.tokenizer.all_special_ids} - {model.mask_id}
    assert [word for token, word in zip(tokens, words, strict=True) if token in special] == [""] * sum(
        token in special for token in tokens
    )
    assert "".join(words) == model.tokenizer.decode([token for token in tokens if token not in special])


def test_a_dllm_that_writes_bytes():
    torch.manual_seed(0)
    model = TOKENIZERS["byte-level"]
    (t,), out, _ = recorded(model, RandomOrder(2), ["naïve café?"], [0], gen_length=24)
    assert "".join(word for word, end in zip(t.words, t.end, strict=True) if not end) == out.texts[0]
