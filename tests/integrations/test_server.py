"""The server's answers are those of `unmask.generate`, whole and streamed, alone and beside others."""

import asyncio
import doctest
import json
import re
import time
from pathlib import Path

import pytest
import torch
from benchmarks.published import LLADA, tiny, write

import unmask
from unmask.cli.serve import ServeConfig, _load
from unmask.decoding.options import DecodeConfig

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from tests.integrations.serving import PROMPTS, THRESHOLD, ask, serving
from unmask.integrations.server.answers import Answer
from unmask.integrations.server.engine import Engine
from unmask.integrations.server.protocol import CompletionRequest
from unmask.integrations.server.reading import Served


def test_texts_are_those_of_generate(house, client):
    policy = unmask.load_policy("house-base-full")
    wanted = unmask.generate(house, policy, PROMPTS[:6], seed=3)
    found = ask(client, PROMPTS[:6], seed=3)
    assert [choice.text for choice in found.choices] == wanted.texts
    assert found.usage.nfe == int(wanted.nfe.sum())
    written = sum(len(house.encode(text)) for text in wanted.texts)
    assert found.usage.completion_tokens == written
    assert found.usage.prompt_tokens == sum(len(house.encode(prompt)) for prompt in PROMPTS[:6])
    assert found.usage.tokens_per_pass == pytest.approx(written / found.usage.nfe, abs=1e-3)
    assert {choice.finish_reason for choice in found.choices} == {"stop"}
    ids = ask(client, house.encode(PROMPTS[0]), seed=3)
    assert ids.choices[0].text == wanted.texts[0]
    twice = ask(client, PROMPTS[0], n=2, seed=3, extra_body={"policy": THRESHOLD})
    assert twice.choices[0].text == twice.choices[1].text
    assert twice.usage.prompt_tokens == len(house.encode(PROMPTS[0]))


@pytest.mark.parametrize(
    ("asked", "options", "policy"),
    [
        ({"extra_body": {"speed": 0.7}}, {"speed": 0.7}, "house-base-full"),
        ({"extra_body": {"target_nfe": 4}}, {}, "house-base-full"),
        ({"extra_body": {"block_length": 8}}, {"block_length": 8}, "house-base-full"),
        ({"extra_body": {"policy": THRESHOLD, "block_length": "8"}}, {"block_length": 8}, THRESHOLD),
        ({"max_tokens": 16}, {"gen_length": 16}, "house-base-full"),
        ({"temperature": 1.0, "top_p": 0.9, "seed": 5}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}, THRESHOLD),
    ],
)
def test_each_option_is_the_one_of_generate(house, client, asked, options, policy):
    rule = unmask.load_policy(policy)
    if "target_nfe" in asked.get("extra_body", {}):
        options = {"speed": rule.speed_for(target_nfe=4)}
    wanted = unmask.generate(house, rule, PROMPTS[:3], **options)
    body = {"policy": policy, **asked.get("extra_body", {})}
    found = ask(client, PROMPTS[:3], **{**asked, "extra_body": body})
    assert [choice.text for choice in found.choices] == wanted.texts
    assert found.usage.nfe == int(wanted.nfe.sum())


def test_passes_are_asked_for_by_the_calibration_of_the_dllm_and_blocks_that_are_served(house):
    policy, served = unmask.load_policy("house-base-full"), Served("house-base", house, {}, DecodeConfig(gen_length=32))
    own = served.table(policy)
    others = own.model_copy(update={"model": "another", "rows": own.rows[:2]})
    blocks = own.model_copy(update={"block_length": 8})
    policy.calibrations = (others, blocks, own)
    assert (served.table(policy), served.table(policy, 8)) == (own, blocks)


def test_serving_another_dllm_than_was_calibrated_is_said(house, capsys):
    for model, told in (("house-small", True), ("house-base", False)):
        _load(ServeConfig(model=model, policy=("house-base-full", THRESHOLD)), DecodeConfig(), None)
        said = capsys.readouterr().err
        assert ("calibrated on the dLLM 'house-base', not on 'house-small': target_nfe may take others" in said) == told


def test_a_region_is_filled_up_to_whole_blocks_and_cut_to_what_was_asked(house, client):
    whole = unmask.generate(house, unmask.load_policy("house-base-full"), [PROMPTS[4]], gen_length=16, block_length=8)
    found = ask(client, PROMPTS[4], max_tokens=11, extra_body={"block_length": 8}).choices[0]
    assert found.text == house.text(whole.tokens[0, :11].tolist())
    assert found.finish_reason == "length"


def test_streams_add_up_to_the_whole_and_count_at_the_end(client):
    whole = ask(client, PROMPTS[:3])
    parts, usage, ends = ["", "", ""], None, []
    for chunk in ask(client, PROMPTS[:3], stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            parts[choice.index] += choice.text
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert parts == [choice.text for choice in whole.choices]
    assert (usage, ends) == (whole.usage, ["stop"] * 3)


@pytest.mark.parametrize("stop", ["blue", ["gold lobby", ", "], ["the answer"], ["nothing of the kind"]])
def test_texts_end_before_a_stop_string_streamed_as_whole(house, client, stop):
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    wanted = unmask.generate(house, unmask.load_policy("house-base-full"), [PROMPTS[4]], stop=stops)
    found = ask(client, PROMPTS[4], stop=stop)
    streamed = "".join(c.text for chunk in ask(client, PROMPTS[4], stop=stop, stream=True) for c in chunk.choices)
    assert found.choices[0].text == streamed == wanted.texts[0]
    assert found.usage.nfe == int(wanted.nfe.sum())
    assert found.choices[0].finish_reason == "stop"
    assert 0 <= found.usage.completion_tokens - len(house.encode(wanted.texts[0])) <= len(max(stops, key=len).split())


def test_log_probabilities_are_those_of_the_pass_that_wrote_each_token(house, client):
    seen = {}

    def keep(step):
        for at in step.action[0].nonzero().flatten().tolist():
            seen[at] = step.observation.confidence[0, at, 0].item()

    wanted = unmask.generate(house, unmask.load_policy("house-base-full"), [PROMPTS[2]], callback=keep)
    told = ask(client, PROMPTS[2], logprobs=1).choices[0].logprobs
    assert "".join(told.tokens) == wanted.texts[0]
    assert [torch.tensor(value).exp().item() for value in told.token_logprobs] == pytest.approx(
        [seen[i] for i in range(len(told.tokens))], rel=1e-5
    )
    assert [wanted.texts[0][at:].startswith(word) for at, word in zip(told.text_offset, told.tokens, strict=True)]
    assert told.top_logprobs[0] == {told.tokens[0]: told.token_logprobs[0]}


def test_64_streams_half_of_them_cancelled_give_what_each_gives_alone(house, served, client):
    """One after the other, then at once, of two policies, speeds and seeds; every second one leaves after its first
    text."""
    address, engine = served
    options = [{"seed": i, "extra_body": {"policy": THRESHOLD} if i % 3 == 0 else {"speed": i / 64}} for i in range(64)]
    alone = [ask(client, prompt, **each).choices[0].text for prompt, each in zip(PROMPTS, options, strict=True)]

    async def one(many, i):
        stream = await many.completions.create(model="house-base", prompt=PROMPTS[i], stream=True, **options[i])
        text = ""
        async for chunk in stream:
            text += "".join(choice.text for choice in chunk.choices)
            if i % 2:
                await stream.close()
                return text
        return text

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as many:
            return await asyncio.gather(*(one(many, i) for i in range(64)))

    for i, text in enumerate(asyncio.run(all_of_them())):
        assert alone[i].startswith(text) if i % 2 else text == alone[i], i
    deadline = time.monotonic() + 5
    while engine.active + engine.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.active, engine.waiting) == (0, 0), "the rows of those who left are given up"


def test_prometheus_counts_what_was_done(served, client):
    def counts():
        lines = httpx.get(f"{served[0]}/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = counts()
    found = ask(client, PROMPTS[:2])
    after = counts()
    asked = 'unmask_requests_total{endpoint="completions",status="200"}'
    assert after[asked] - before.get(asked, 0) == 1
    assert (
        after["unmask_generated_tokens_total"] - before["unmask_generated_tokens_total"]
        == found.usage.completion_tokens
    )
    assert after["unmask_passes_total"] - before["unmask_passes_total"] == found.usage.nfe
    assert after["unmask_rows_active"] == 0


def test_the_session_in_the_docs(served):
    page = (Path(__file__).parents[2] / "docs/howto/serve.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"^```pycon\n(.*?)^```$", page, re.M | re.S)
    session = session.replace("http://localhost:8000", served[0])
    test = doctest.DocTestParser().get_doctest(session, {}, "serve.md", None, None)
    told = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append, clear_globs=False)
    assert "".join(told) == ""
    test.globs["client"].close()


def test_what_is_served_is_listed(house, served, client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("house-base", "unmask")
    assert model.policies["house-base-full"]["speed"]
    assert model.policies["house-base-full"]["calibration"][0]["nfe"] > 3
    assert client.models.retrieve("house-base").id == "house-base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError, match="has no chat template: pass a text instead of messages"):
        client.chat.completions.create(model="house-base", messages=[{"role": "user", "content": "hall: red?"}])


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A LLaDA of random weights in its published layout, which has a chat template."""
    folder = tmp_path_factory.mktemp("llada") / "m"
    write(folder, tiny(LLADA), ["go red porch, blue hall.", "how many?"], scale=0.3)
    model = unmask.load_model(folder)
    with serving(model, [THRESHOLD], config=DecodeConfig(gen_length=24, block_length=8)) as (address, _):
        yield model, address


def test_chats_are_those_of_generate(chatting):
    model, address = chatting
    talk = [{"role": "system", "content": "go"}, {"role": "user", "content": [{"type": "text", "text": "how many?"}]}]
    policy = unmask.load_policy(THRESHOLD)
    wanted = unmask.generate(model, policy, [talk], gen_length=24, block_length=8)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        call = {"model": model.name, "messages": talk}
        whole = client.chat.completions.create(**call, logprobs=True, top_logprobs=1, max_completion_tokens=24)
        assert whole.choices[0].message.content == wanted.texts[0]
        assert whole.choices[0].message.role == "assistant"
        words = [one.token for one in whole.choices[0].logprobs.content]
        assert "".join(words) == wanted.texts[0]
        assert whole.usage.nfe == int(wanted.nfe[0])
        stream = client.chat.completions.create(**call, stream=True, tools=[], response_format={"type": "text"})
        deltas = [chunk.choices[0].delta for chunk in stream]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == wanted.texts[0]
        for changes, message in (
            ({"tools": [{"type": "function"}]}, "tools: is not supported by this server"),
            ({"messages": []}, "messages: give messages, each with a role and a content."),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "give a text, or parts of text"),
            ({"response_format": {"type": "json_object"}}, "response_format: is not supported"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                client.chat.completions.create(**{**call, **changes})


def test_a_page_gets_every_step(house, served):
    body = {"model": "house-base", "prompt": PROMPTS[3], "speed": 0.5}
    with httpx.stream("POST", f"{served[0]}/live", json=body) as found:
        lines = [line.removeprefix("data: ") for line in found.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    *steps, end = [json.loads(line) for line in lines]
    wanted = unmask.generate(house, unmask.load_policy("house-base-full"), [PROMPTS[3]], speed=0.5)
    assert [step["step"] for step in steps] == list(range(1, int(wanted.nfe[0]) + 1))
    assert (end["text"], end["nfe"]) == (wanted.texts[0], int(wanted.nfe[0]))
    for i, step in enumerate(steps):
        fresh = [at for at, when in enumerate(wanted.revealed_at[0].tolist()) if when == i]
        assert [int(at) for at in step["fresh"]] == fresh
        assert all(step["words"][at] is not None for at in fresh)
    assert "".join(word or "" for word in steps[-1]["words"]).startswith(end["text"])


class TestText:
    """What a stream may send, token by token, without a server."""

    @pytest.mark.parametrize("stop", [(), ("blue lobby",), ("answer is", "gold"), (".",)])
    def test_nothing_is_taken_back_wherever_the_text_is_cut(self, house, stop):
        policy = unmask.load_policy(THRESHOLD)
        done = unmask.generate(house, policy, [PROMPTS[4]])[0]
        served = Served("house-base", house, {"p": policy}, DecodeConfig(gen_length=32))
        for first in range(33):
            asked = CompletionRequest(model="house-base", prompt=PROMPTS[4], stop=list(stop) or None)
            answer = Answer(served, Engine(house, {}), asked)
            (row,) = answer.rows
            parts = [answer.fresh(row, done.tokens[:n]) for n in (first, min(first + 3, 32))]
            answer.finish(row, done)
            assert row.text.startswith("".join(parts))
            assert row.sent == "".join(parts)


def test_masks_of_a_budget_that_was_spent_are_streamed_as_they_are_told(house):
    for config in (
        {"max_block_steps": 1, "block_length": 8, "judge_unfinished": True},
        {"max_block_steps": 1, "block_length": 8},
        {"text_after_eos": True, "stop_at_eos": False},
    ):
        draws = {"temperature": 2 if "text_after_eos" in config else 0}
        with (
            serving(house, ["random_order:k=2"], config=DecodeConfig(**config)) as (address, _),
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
        ):
            for seed in range(3):
                whole = ask(client, PROMPTS[2], seed=seed, **draws)
                stream = ask(client, PROMPTS[2], seed=seed, stream=True, **draws)
                assert "".join(c.text for chunk in stream for c in chunk.choices) == whole.choices[0].text
                if "text_after_eos" in config:
                    continue
                told = ask(client, PROMPTS[2], seed=seed, logprobs=1).choices[0].logprobs
                assert min(told.token_logprobs, default=0) > -60
                for at, word in zip(told.text_offset, told.tokens, strict=True):
                    assert whole.choices[0].text[at:].startswith(word)
