"""Revision of revealed tokens against LLaDA2.1's own loop; ends, budgets, batches, the cache, refusals."""

import json

import pytest
import torch
from benchmarks.layouts import BLOCK_CAUSAL
from benchmarks.published import tiny, write

from tests.oracle import editing_loop
from unmask import see
from unmask.decoding.blocks import make_blocks
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.session import Session
from unmask.decoding.trajectory import Recorder
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.noise import row_keys
from unmask.observation import Needs
from unmask.policies import ConfidenceThreshold, MaxReveal, RandomOrder, Revising, TransformerPolicy, load_policy
from unmask.rl import rollout
from unmask.rl.env import DecodingEnv
from unmask.rl.experts import as_seen
from unmask.tasks.auto import load_task

BLOCK, LENGTH = 4, 14
TEXTS = ["what is twelve times seven? it is eighty-four", "add two and two"]
PROMPTS = [[5 + i] * (1 + i) for i in (0, 2, 3, 5, 8)]
EAGER = Revising(ConfidenceThreshold(0.1), 0.3, 3)  # edits often on random weights


@pytest.fixture(scope="module", params=["llada2", "sdar"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "published"
    write(folder, tiny(BLOCK_CAUSAL[request.param]), TEXTS, scale=0.5)
    return folder


def load(folder, **options):
    return load_model(folder, causal_block=BLOCK, dtype="float32", **{"revises": True, **options})


def edits_of(model, policy, prompts=PROMPTS, **options):
    """(What `decode` gives, all its steps)."""
    steps = []
    out = decode(model, policy, prompts, callback=steps.append, gen_length=LENGTH, **options)
    return out, steps


@pytest.mark.parametrize(
    ("threshold", "editing", "post_steps"),
    [(0.95, 0.9, 16), (0.7, 0.5, 16), (0.5, 0.0, 8), (0.1, 0.3, 2), (0.5, 0.0, 0)],
    ids=["default", "quality", "speed", "two", "none"],
)
def test_it_decodes_as_the_loop_released_with_llada2_1(folder, threshold, editing, post_steps):
    model = load(folder)
    policy = Revising(ConfidenceThreshold(threshold), editing, post_steps)
    own, many, early, edited = model.eos_ids.tolist(), list(range(60, 200)), 0, 0
    # Regions that end within a block and at its end; texts that go on and that end early.
    for n, ends in ((1, many), (4, own), (6, own), (6, many), (13, own)):
        prompt, model.eos_ids = [5 + n + i for i in range(n)], torch.tensor(ends)
        region, nfe, edits = editing_loop(
            lambda x: model.logits(x[None], torch.ones(1, len(x), dtype=torch.bool), torch.arange(len(x))),
            prompt,
            gen_length=LENGTH,
            block_length=BLOCK,
            mask_id=model.mask_id,
            eos_ids=ends,
            threshold=threshold,
            editing_threshold=editing,
            max_post_steps=post_steps,
        )
        out = decode(model, policy, [prompt], gen_length=LENGTH)
        assert out.tokens[0].tolist() == region + [region[-1]] * (LENGTH - len(region))
        assert out.nfe.tolist() == [nfe]
        edited, early = edited + edits, early + (len(region) < LENGTH)
    assert early > 0
    assert edited > 0 or editing == 0.9


@pytest.mark.parametrize(
    ("inner", "options"),
    [
        (ConfidenceThreshold(0.1), {}),
        (RandomOrder(2), {"block_length": 2}),
        (TransformerPolicy().eval(), {"stop_at_eos": False, "max_block_steps": 3}),
    ],
)
def test_a_cached_batch_is_decoded_as_each_prompt_alone_without_a_cache(folder, inner, options):
    policy = Revising(inner, 0.3, 3)
    model = load(folder)
    model.eos_ids = torch.arange(100, 140)
    together, steps = edits_of(model, policy, batch_size=3, seed=3, **options)
    assert any(step.edits.any() for step in steps)
    for i, prompt in enumerate(PROMPTS):
        alone, _ = edits_of(model, policy, [prompt], streams=[i], seed=3, cache="none", **options)
        for name in ("tokens", "revealed_at", "nfe"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), (name, i)
        assert together.ended[i] == alone.ended[0]


def test_the_cache_keeps_the_keys_of_the_final_tokens(folder):
    model, seen = load(folder), []
    original = model.advance

    def watched(tokens, attention, positions, memory):
        found, moved = original(tokens, attention, positions, memory)
        seen.append((model.head(found) - model.head(model.hidden(tokens, attention, positions))).abs().max().item())
        return found, moved

    model.advance = watched
    _, steps = edits_of(model, EAGER, batch_size=3)
    assert sum(int(step.edits.any()) for step in steps) > 5
    assert max(seen) < 1e-3


def test_only_revealed_tokens_of_the_current_block_are_edited_and_only_where_the_dllm_differs(folder):
    model = load(folder)
    _, steps = edits_of(model, EAGER, stop_at_eos=False)
    position = torch.arange(LENGTH)
    for step in steps:
        before, edits = step.before, step.edits
        assert not (edits & before.masked).any()
        block = (position + before.prompt_length[:, None]) // BLOCK
        last = (before.block_end - 1 + before.prompt_length)[:, None] // BLOCK
        assert (block == last)[edits].all()
        assert (step.written != before.region)[edits].all()
        assert (step.observation.confidence[..., 0] > 0.3)[edits].all()
        shown = step.observation.selectable | step.observation.differs
        assert not step.observation.confidence[~shown].any()


def test_a_policy_that_does_not_revise_decodes_as_ever(folder):
    """On a dLLM that may revise: every token stays as it was written, and no pass is added."""
    model, plain = load(folder), load(folder, revises=False)
    out, steps = edits_of(model, ConfidenceThreshold(0.1))
    assert all(step.edits is None for step in steps)
    assert torch.equal(out.tokens, edits_of(plain, ConfidenceThreshold(0.1))[0].tokens)
    written = {}
    for step in steps:
        for row, region, masked in zip(
            step.before.row.tolist(), step.before.region.tolist(), step.before.masked.tolist(), strict=True
        ):
            for i, token in enumerate(region):
                if not masked[i]:
                    assert written.setdefault((row, i), token) == token
    assert out.nfe.tolist() == [len(set(row.tolist()) - {-1}) for row in out.revealed_at]


def test_a_spent_budget_ends_the_editing(folder):
    """Within the last block's editing the row is complete; before it, what is masked stays masked."""
    model, policy = load(folder), Revising(RandomOrder(1), 0.0)
    options = {"gen_length": 4, "stop_at_eos": False}
    assert decode(model, policy, [[5] * 4], **options).nfe.item() > 5
    for steps, ending in ((5, "complete"), (4, "complete"), (3, "budget")):
        out = decode(model, policy, [[5] * 4], max_steps=steps, **options)
        assert (out.ended, out.nfe.item()) == ([ending], steps)


def test_by_default_there_is_room_for_all_passes(folder):
    model, policy = load(folder), Revising(RandomOrder(1), 0.0, 5)
    out = decode(model, policy, PROMPTS, gen_length=LENGTH, stop_at_eos=False)
    assert out.complete.all()
    assert (out.nfe > LENGTH).all()


def test_passes_without_masks_count_as_the_blocks(folder):
    model, policy = load(folder), Revising(RandomOrder(2), 0.0)
    out = decode(model, policy, [[5] * 4], gen_length=8, stop_at_eos=False, max_block_steps=3)
    assert out.nfe.tolist() == [6]
    assert out.ended == ["complete"]


def test_a_stop_string_waits_for_its_block(folder):
    model = load(folder)
    free, steps = edits_of(model, EAGER, [[5] * 4], stop_at_eos=False)
    final = free.tokens[0, :BLOCK].tolist()
    stop = model.text(final)[-2:]
    out = decode(model, EAGER, [[5] * 4], gen_length=LENGTH, stop_at_eos=False, stop=(stop,))
    assert out.ended == ["stop"]
    assert out.tokens[0, :BLOCK].tolist() == final
    assert out.nfe.item() == sum(int(step.before.block_end) <= BLOCK for step in steps)
    assert out.tokens[0, BLOCK:].eq(model.mask_id).all()


def test_an_engine_that_calls_see_edits_as_generate(folder):
    """One block of an engine's, with the end of a prompt in it."""
    model = load(folder)
    policy = Revising(ConfidenceThreshold(0.2), 0.2, 6)
    out = decode(model, policy, [[5] * 6], gen_length=2, stop_at_eos=False)
    x = torch.tensor([[*[5] * 6, *[model.mask_id] * 2]])
    prompt, key, post, nfe = torch.tensor([[True, True, False, False]]), row_keys(0, torch.arange(1)), 0, 0
    while post <= policy.post_steps:
        block = x[:, 4:]
        masked = block == model.mask_id
        logits = model.logits(x, torch.ones_like(x, dtype=torch.bool), torch.arange(4, 8))[None]
        standing = block.masked_fill(prompt | masked, -1)
        seen = see(
            logits, needs=policy.needs, masked=masked, standing=standing, step=nfe, key=key, banned_ids=[model.mask_id]
        )
        edits, nfe = policy.revise(seen), nfe + 1
        logits[..., model.mask_id] = -torch.inf
        block[:] = torch.where(policy.select(seen) | edits, logits.argmax(dim=-1), block)
        post += not masked.any()
        if not masked.any() and (not edits.any() or post == policy.post_steps):
            break
    assert x[0, 6:].tolist() == out.tokens[0].tolist()
    assert nfe == out.nfe.item()
    for absent in ({"logits": logits}, {"probabilities": logits.softmax(-1).amax(-1, keepdim=True)}):
        with pytest.raises(UnmaskError, match="needs logits and the tokens that stand, which nobody gave"):
            see(**absent, needs=policy.needs, masked=masked)


def test_a_trajectory_has_the_final_words_and_the_first_steps(folder):
    model, recorder = load(folder), Recorder([0])
    out = decode(model, EAGER, [[5] * 4], gen_length=LENGTH, stop_at_eos=False, callback=recorder)
    found = recorder.trajectory(model, "", out[0])
    assert "".join(word for word, end in zip(found.words, found.end, strict=True) if not end) == out.texts[0]
    assert found.revealed_at == out.revealed_at[0].tolist()
    assert all(sure > 0 for sure in found.confidence)


def test_a_rule_that_revises_teaches_what_it_reveals(folder):
    """Roll-outs take its passes as they are; in those without masks there is nothing to learn."""
    model, learner = load(folder), TransformerPolicy()
    recorder, needs = rollout.Recorder(learner.needs), learner.needs
    out = decode(
        model, EAGER, PROMPTS, gen_length=LENGTH, stop_at_eos=False, callback=recorder, also_observe=learner.needs
    )
    steps = recorder.steps()
    assert len(steps) == out.nfe.sum()
    assert steps.observation.differs is None
    assert not needs.differs
    seen = as_seen(steps, make_blocks(None, LENGTH, model), learner)
    post = ~steps.observation.selectable.any(dim=1)
    assert post.any()
    assert not (seen.picks[post] > 0).any()
    assert not seen.observation.selectable[post].any()
    assert (seen.picks > 0).sum() == LENGTH * len(PROMPTS)


def test_other_wrappers_let_it_through(folder):
    model = load(folder)
    policy = MaxReveal(EAGER, 1)
    assert (policy.post_steps, policy.needs.differs) == (3, True)
    out, steps = edits_of(model, policy, stop_at_eos=False)
    assert max(int(step.action.sum(dim=1).max()) for step in steps) == 1
    assert any(step.edits.any() for step in steps)
    assert out.complete.all()


def test_guidance_and_drawn_tokens_go_with_it(folder):
    model = load(folder)
    for options in ({"cfg_scale": 0.5}, {"temperature": 0.7}, {"temperature": 0.7, "confidence_of": "drawn"}):
        out, steps = edits_of(model, EAGER, PROMPTS, batch_size=2, cache="none", **options)
        assert out.complete.all()
        assert any(step.edits.any() for step in steps)
        alone, _ = edits_of(model, EAGER, PROMPTS[1:2], streams=[1], cache="none", **options)
        assert torch.equal(out.tokens[1], alone.tokens[0])


def test_copies_of_a_prompt_are_decoded_as_one(folder):
    """Without a cache rows could share passes; a row that is revised looks like one that goes on."""
    model = load(folder)
    out = decode(model, EAGER, [[5] * 4] * 3 + [[6]], gen_length=LENGTH, cache="none")
    alone = decode(model, EAGER, [[5] * 4], gen_length=LENGTH)
    assert torch.equal(out.tokens[:3], alone.tokens.expand(3, -1))
    assert out.nfe[:3].tolist() == alone.nfe.tolist() * 3


def test_what_cannot_be_revised_is_refused(folder):
    message = (
        "The policy 'revising' revises revealed tokens, and the dLLM .* was not loaded as one that was trained for it: "
        r"leave revising out, or load LLaDA2.1 with revises=True \(--revises\)."
    )
    for model in (load_model(), load(folder, revises=False)):
        with pytest.raises(UnmaskError, match=message):
            decode(model, EAGER, [[5]], gen_length=8)
    with pytest.raises(UnmaskError, match="revises is for block-causal dLLMs .* attends in full: leave it out"):
        load_model("house-base", revises=True)
    with pytest.raises(UnmaskError, match="An action of the environment reveals and cannot revise"):
        DecodingEnv(load(folder), load_task("house"), needs=EAGER.needs)
    model = load(folder)
    session = Session(model, Needs(), DecodeConfig(gen_length=8).resolve(model))
    session.add([[5]], [0], row_keys(0, torch.arange(1)))
    with pytest.raises(UnmaskError, match="Edits are given, and what differs was not observed: let needs have differs"):
        session.reveal(torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("confidence_threshold | revising:threshold=1.5", "threshold"),
        ("confidence_threshold | revising:post_steps=-1", "post_steps"),
        ("confidence_threshold | revising | temperature:tau=0.5", "'revising' has none: wrap a learned policy"),
    ],
)
def test_bad_settings_are_refused(spec, message):
    with pytest.raises(UnmaskError, match=message):
        load_policy(spec)


def test_the_command_takes_it(folder, tmp_path, capsys):
    from unmask.cli.main import main

    argv = ["decode", "add two", "--model", folder, "--causal-block", 4, "--dtype", "float32", "--gen-length", 8]
    argv += ["--policy", "confidence_threshold:threshold=0.5 | revising:threshold=0"]
    with pytest.raises(SystemExit, match="2"):
        main(list(map(str, argv)))
    assert "was not loaded as one that was trained for it" in capsys.readouterr().err
    main(list(map(str, [*argv, "--revises", "--output", tmp_path / "out.jsonl"])))
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["nfe"] > 8
    assert load(folder).summary().startswith(f"{folder}: ")
    assert " in blocks of 4, revising, " in load(folder).summary()
