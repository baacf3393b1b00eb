"""The server over real sockets, asked by OpenAI's own client."""

import asyncio
import doctest
import json
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from benchmarks.published import LLADA, tiny, write
from benchmarks.serving import odd_body

import unmask
from unmask.cli.main import main
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Completion
from unmask.decoding.state import DecodingState
from unmask.errors import UnmaskError

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

from unmask.integrations.server.app import build_app
from unmask.integrations.server.engine import Engine
from unmask.integrations.server.protocol import CompletionRequest
from unmask.integrations.server.service import Answer, Served

ROOMS, WORDS = ["hall", "attic", "cellar", "porch"], ["red", "blue", "gold", "green"]
PROMPTS = [f"{ROOMS[i % 4]}: {' '.join(WORDS[(i + j) % 4] for j in range(1 + i % 5))}?" for i in range(64)]
THRESHOLD = "confidence_threshold:threshold=0.9"


@contextmanager
def serving(model, policies, *, config=None, rows=64, queue=256, guard=None, **options):
    """(address, engine) of a server in a thread."""
    loaded = {name: unmask.load_policy(name) for name in policies}
    config = (config or DecodeConfig()).model_copy(
        update={"gen_length": (config or DecodeConfig()).region(None, model)}
    )
    engine = Engine(model, loaded, rows=rows, queue=queue)
    app = build_app(Served(model.name, model, loaded, config, **options), engine, **(guard or {}))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", engine
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def house():
    return unmask.load_model("house-base")


@pytest.fixture(scope="module")
def served(house):
    with serving(house, ["house-base-full", THRESHOLD]) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client, prompt, **options):
    return client.completions.create(model="house-base", prompt=prompt, **options)


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


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(house, stream):
    with serving(house, ["top_k_confidence:k=1"], rows=1, queue=8) as (address, engine):
        step, steps, go = engine._step, [], threading.Event()

        def slow(*args):
            steps.append(1)
            step(*args)
            if len(steps) > 2:  # text has been sent, and most of it is still to come
                go.wait(5)

        engine._step = slow
        body = {"model": "house-base", "prompt": PROMPTS[0], "stream": stream}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/completions", json=body, timeout=0.5)
        time.sleep(0.2)
        go.set()
        deadline = time.monotonic() + 5
        while engine.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (engine.active, len(steps)) == (0, 3)
        assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200
        left = httpx.get(f"{address}/metrics").text
        assert 'unmask_requests_total{endpoint="completions",status="499"} 1.0' in left


def test_what_waits_is_bounded_and_what_takes_too_long_ends(house):
    with serving(house, [THRESHOLD], rows=2, queue=2, seconds=0.4) as (address, engine):
        go, step = threading.Event(), engine._step
        engine._step = lambda *args: (go.wait(5), step(*args))
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            first = [pool.submit(ask, client, prompt) for prompt in PROMPTS[:4]]
            while engine.active + engine.waiting < 4:
                time.sleep(0.01)
            with pytest.raises(openai.RateLimitError, match=r"\d prompts wait already: try again later") as refused:
                ask(client, PROMPTS[0])
            assert refused.value.response.headers["retry-after"] == "1"
            time.sleep(0.5)
            go.set()
            for one in first:
                with pytest.raises(openai.InternalServerError, match=r"took more than 0.4 seconds"):
                    one.result()
            assert ask(client, PROMPTS[0]).choices[0].text


WRONG = [
    ({"model": "x"}, 404, "model", "The model 'x' does not exist: this server has 'house-base'."),
    ({"prompt": "a zebra"}, 400, "prompt", "has words that the dLLM 'house-base' does not know"),
    ({"prompt": []}, 400, "prompt", "prompt: give a text, token ids, or a list of them."),
    ({"prompt": [7, "x"]}, 400, "prompt", "prompt: give a text, token ids, or a list of them."),
    ({"prompt": [[1, 999]]}, 400, "prompt", "holds 999, which is no token id"),
    ({"max_tokens": 4000}, 400, "prompt", "needs 4004 positions, but the dLLM has 96"),
    ({"max_tokens": 4097}, 400, "max_tokens", "max_tokens is 4097, and this server writes 4096 at most"),
    (
        {"max_tokens": 9, "block_length": 5000},
        400,
        "max_tokens",
        "max_tokens is 9, in whole blocks 5000, and this server",
    ),
    ({"block_length": "adaptive:delimiters=[" + ".," * 999 + ".]"}, 400, "block_length", "and 1000 are enough"),
    ({"prompt": "a zebra " * 9999}, 400, "prompt", "zebra …' has words that the dLLM"),
    ({"prompt": ["hall: red?"] * 100, "n": 16}, 400, None, "These are 1600 texts, and this server holds 320 at most"),
    ({"max_tokens": 0}, 400, "max_tokens", "max_tokens: input should be greater than or equal to 1."),
    ({"temperature": float("1e9")}, 400, "temperature", "temperature: input should be less than or equal to 2."),
    ({"policy": "house"}, 400, "policy", "Unknown policy 'house': did you mean 'house-base-full'"),
    ({"policy": THRESHOLD, "speed": 0.5}, 400, "speed", "This policy has no speed to choose"),
    ({"policy": THRESHOLD, "target_nfe": 4}, 400, "target_nfe", "has no speed to choose: leave target_nfe out"),
    ({"speed": 0.5, "target_nfe": 4}, 400, "target_nfe", "Give one of speed and target_nfe."),
    ({"target_nfe": 0.5}, 400, "target_nfe", "its fastest takes"),
    ({"block_length": 7.5}, 400, "block_length", "block_length"),
    ({"block_length": 0}, 400, "block_length", "block_length"),
    ({"block_length": "words"}, 400, "block_length", "Unknown block_length 'words'"),
    ({"echo": True}, 400, "echo", "echo: is not supported by this server: leave it out."),
    ({"best_of": 3}, 400, "best_of", "best_of: is not supported by this server"),
    ({"n": 100}, 400, "n", "n: input should be less than or equal to 16."),
    ({"logprobs": 5}, 400, "logprobs", "logprobs: input should be less than or equal to 1."),
    ({"logprobs": 1, "temperature": 1}, 400, "logprobs", "temperature draws others"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "is not supported"),
    ({"stop": ["a"] * 99}, 400, "stop", "stop: give a text, or up to 16 of them."),
    ({"seed": 2**70}, 400, "seed", "seed: input should be less than or equal to"),
    ({"speeed": 1}, 400, "speeed", "speeed: this server has no such parameter: leave it out."),
]


@pytest.mark.parametrize(("changes", "status", "param", "message"), WRONG)
def test_what_is_wrong_is_told_in_openais_shape(served, changes, status, param, message):
    body = {"model": "house-base", "prompt": "hall: red?", **changes}
    found = httpx.post(f"{served[0]}/v1/completions", json=body)
    told = found.json()["error"]
    assert (found.status_code, told["param"], told["type"]) == (status, param, "invalid_request_error")
    assert message in told["message"]
    assert told["message"][-1] in ".?"
    assert ".." not in told["message"]


def test_a_page_shows_one_text(served):
    found = httpx.post(f"{served[0]}/live", json={"model": "house-base", "prompt": "hall: red?", "n": 3})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "n")
    assert httpx.get(f"{served[0]}/openapi.json").status_code == 404


def test_bodies_that_are_none(served):
    address = f"{served[0]}/v1/completions"
    json_type = {"content-type": "application/json"}
    for content, headers in (
        (b"{", json_type),
        (b"", json_type),
        (b"[]", json_type),
        (b"\xff\xfe", json_type),
        (b"{}", {}),
    ):
        found = httpx.post(address, content=content, headers=headers)
        assert found.status_code == 400, content
        assert "is not JSON" in found.json()["error"]["message"] or "model: is missing" in found.text
    assert httpx.get(address).json()["error"]["message"] == "Method Not Allowed: GET /v1/completions."
    assert httpx.get(f"{served[0]}/v1/nothing").status_code == 404


@pytest.mark.parametrize("chat", [False, True])
def test_no_body_is_a_fault_of_the_server(served, chat):
    own = {"messages": [{"role": "user", "content": "hall: red?"}]} if chat else {"prompt": "hall: red?"}
    address, seen = f"{served[0]}/v1/{'chat/' if chat else ''}completions", set()
    with httpx.Client(headers={"content-type": "application/json"}) as client:
        for i in range(150):
            body = odd_body(random.Random(i), own)
            found = client.post(address, content=body)
            seen.add(found.status_code)
            assert found.status_code < 500, body
            assert found.status_code == 200 or found.json()["error"]["message"], body
    assert seen <= {200, 400, 404}
    assert chat or 200 in seen


def test_a_key_is_wanted_and_sizes_and_paces_are_bounded(house):
    guard = {"key": "s3cret", "most_bytes": 2000, "read_seconds": 0.3}
    with serving(house, [THRESHOLD], guard=guard, max_prompt=4) as (address, _):
        for key in ("wrong", "s3cretx", "ключ"):
            head = {"authorization": f"Bearer {key}".encode()}
            found = httpx.get(f"{address}/v1/models", headers=head)
            assert (found.status_code, found.json()["error"]["type"]) == (401, "authentication_error")
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            ask(client, PROMPTS[0])
        with openai.OpenAI(base_url=f"{address}/v1", api_key="s3cret") as client:
            assert ask(client, "hall: red?").choices[0].text
            with pytest.raises(openai.BadRequestError, match="has 5 tokens, and this server takes 4"):
                ask(client, "hall: red blue?")
            with pytest.raises(openai.APIStatusError, match="longer than 2000 bytes") as long:
                ask(client, "x" * 3000)
            assert long.value.status_code == 413
        assert [httpx.get(f"{address}{path}").status_code for path in ("/v1%2fmodels", "/v1/../v1/models")] == [
            401,
            401,
        ]
        assert [httpx.get(f"{address}/{open_}").status_code for open_ in ("health", "metrics", "")] == [200] * 3
        host, port = address.removeprefix("http://").split(":")
        start = time.monotonic()
        for head, status in (
            (b"content-length: 500\r\n", b"408"),
            (b"transfer-encoding: chunked\r\n", b"413"),
            (b"content-length: 99999999999\r\n", b"413"),
        ):
            with socket.create_connection((host, int(port))) as slow:
                line = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: bearer s3cret\r\n"
                slow.sendall(line + head + b"\r\n" + (b"bb8\r\n" + b"x" * 3000 if b"chunked" in head else b"{"))
                assert slow.recv(12).endswith(status)
        assert time.monotonic() - start < 3


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
            parts = [answer._fresh(row, done.tokens[:n]) for n in (first, min(first + 3, 32))]
            row.done = Completion(**vars(done))
            whole = answer._text(row)
            assert whole.startswith("".join(parts))
            assert "".join(parts) + answer._fresh(row, None) == whole


def test_a_port_in_use_and_keys_that_are_none_are_refused(tmp_path, capsys, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--port", str(port)])
    assert ended.value.code == 2
    assert f"Cannot listen at 127.0.0.1, port {port} (Address already in use)" in " ".join(
        capsys.readouterr().err.split()
    )
    (tmp_path / "empty").write_text("\n")
    for flags, message in (
        (["--api-key-file", tmp_path / "none"], "No key at"),
        (["--api-key-file", tmp_path / "empty"], "holds no key: write one line"),
        (["--policy", "nothing-like-it"], "nothing-like-it"),
        (["--stop", "x"], "stop is a request's own: leave out --stop."),
        (["--host", "no.such.host.invalid"], "Cannot listen at no.such.host.invalid"),
        (["--speed", "0.5", "--policy", THRESHOLD], "no speed"),
    ):
        with pytest.raises(SystemExit):
            main(["serve", "--port", "0", *map(str, flags)])
        assert message in " ".join(capsys.readouterr().err.split()), flags
    monkeypatch.setenv("UNMASK_API_KEY", "a")
    (tmp_path / "key").write_text("b")
    with pytest.raises(SystemExit):
        main(["serve", "--port", "0", "--api-key-file", str(tmp_path / "key")])
    assert "give one of them" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("place", ["add", "drop", "step"])
def test_too_little_memory_anywhere_leaves_nobody_waiting(house, place):
    """Rows that join, that are given up, that are decoded: whoever asked is answered, and the next one is served."""
    with serving(house, ["top_k_confidence:k=1"], rows=4, seconds=20) as (address, engine):
        body, go = {"model": "house-base", "prompt": PROMPTS[4]}, threading.Event()
        step, faults = engine._step, [1]
        engine._step = lambda *args: (go.wait(5), step(*args))
        of = {"add": DecodingState.join, "drop": DecodingState.take, "step": DecodingState.take}[place]

        def full(*args):
            if faults and go.is_set():
                faults.pop()
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return of(*args)

        with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(4) as pool:
            patched.setattr(DecodingState, of.__name__, full)
            first = pool.submit(httpx.post, f"{address}/v1/completions", json=body, timeout=30)
            while not engine.active:
                time.sleep(0.01)
            if place == "drop":
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{address}/v1/completions", json=body, timeout=0.3)
            more = [pool.submit(httpx.post, f"{address}/v1/completions", json=body, timeout=30) for _ in range(2)]
            time.sleep(0.2)
            go.set()
            statuses = sorted(one.result().status_code for one in (first, *more))
        assert not faults
        assert set(statuses) <= {200, 500}
        assert 500 in statuses
        assert httpx.get(f"{address}/health").status_code == 200
        assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200


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


def test_a_fault_of_a_policy_ends_its_requests_and_not_the_server(house):
    with serving(house, [THRESHOLD]) as (address, engine):
        policy = engine.policies[THRESHOLD]
        body = {"model": "house-base", "prompt": PROMPTS[0]}
        for fault, told in (
            (ValueError("oh"), "an error of its own"),
            (UnmaskError("Too little memory."), "Too little memory."),
        ):

            def broken(self, seen, fault=fault):
                raise fault

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(type(policy), "select", broken)
                found = httpx.post(f"{address}/v1/completions", json=body)
            assert (found.status_code, found.json()["error"]["type"]) == (500, "server_error")
            assert told in found.json()["error"]["message"]
            assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200
