"""What a server must bear: clients that leave, too many, too long, wrong; keys, sizes, paces; faults of its own."""

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from benchmarks.serving import odd_body

from unmask.cli.main import main
from unmask.decoding.state import DecodingState
from unmask.errors import UnmaskError

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from tests.integrations.serving import PROMPTS, THRESHOLD, ask, serving


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
        refused = httpx.get(f"{address}/metrics").text
        for status in (401, 413):
            assert f'unmask_requests_total{{endpoint="other",status="{status}"}}' in refused
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
        assert time.monotonic() - start < 20


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
