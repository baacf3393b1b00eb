"""The server under load: `unmask serve` in a process of its own, clients in another.

python benchmarks/serving.py load                      1, 8 and 64 clients, beside the offline loop on the same prompts
python benchmarks/serving.py soak --minutes 30         memory of the server under 16 clients, streams and cancellations
python benchmarks/serving.py malformed --requests 10000   bodies that are not what they should be: none may end in a 5xx
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import aiohttp

import unmask
from unmask.decoding.decode import decode

MODEL, POLICY = "house-base", "house-base-full"
Body = dict[str, Any]


@contextmanager
def served(*flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a server at a free port."""
    command = [sys.executable, "-m", "unmask.cli", "serve", "--model", MODEL, "--policy", POLICY, "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r"at (http://\S+) ", line)
            if found:
                yield found.group(1), process
                return
        raise SystemExit("The server did not start.")
    finally:
        process.terminate()
        process.wait()


def prompts(n: int) -> list[str]:
    """Of the bundled task's test split."""
    return [example.prompt for example in unmask.load_task("house").examples("test", n)]


async def _ask(session: aiohttp.ClientSession, address: str, body: Body) -> tuple[int, str]:
    async with session.post(f"{address}/v1/completions", json=body) as answer:
        return answer.status, await answer.text()


async def _clients(address: str, asked: list[str], clients: int) -> tuple[float, list[float], list[str]]:
    """Seconds of all, of each, and the texts: so many clients, each asks again when it is answered."""
    queue, times, texts = iter(enumerate(asked)), [0.0] * len(asked), [""] * len(asked)

    async def client(session: aiohttp.ClientSession) -> None:
        for i, prompt in queue:
            start = time.perf_counter()
            status, text = await _ask(session, address, {"model": MODEL, "prompt": prompt})
            times[i] = time.perf_counter() - start
            assert status == 200, text
            texts[i] = json.loads(text)["choices"][0]["text"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return time.perf_counter() - start, times, texts


def _run_clients(address: str, asked: list[str], clients: int) -> tuple[float, list[float], list[str]]:
    return asyncio.run(_clients(address, asked, clients))


def load(n: int, rounds: int) -> None:
    """A row for each number of clients; offline and served take turns, ratios are of the same round."""
    asked = prompts(n)
    model, policy = unmask.load_model(MODEL), unmask.load_policy(POLICY)
    print("| clients | requests/s | p50, ms | p99, ms | offline, prompts/s | served / offline | other texts |")
    print("|---" * 7 + "|")
    with served("--batch-size", "64", "--queue", "1024") as (address, _), get_context("spawn").Pool(1) as pool:
        pool.apply(_run_clients, (address, asked[:32], 8))
        for clients in (1, 8, 64):
            some = asked[: max(64, n * clients // 64)]
            rates, ratios, times, offline, differ = [], [], [], [], 0
            for _ in range(rounds):
                start = time.perf_counter()
                tokens = [model.encode(prompt) for prompt in some]
                wanted = decode(model, policy, tokens, batch_size=clients, streams=[0] * len(some))
                offline.append(len(some) / (time.perf_counter() - start))
                seconds, each, texts = pool.apply(_run_clients, (address, some, clients))
                rates.append(len(some) / seconds)
                ratios.append(rates[-1] / offline[-1])
                times += each
                differ += sum(a != b for a, b in zip(wanted.texts, texts, strict=True))
            cut = statistics.quantiles(times, n=100)
            print(
                f"| {clients} | {statistics.median(rates):.0f} | {1000 * cut[49]:.0f} | {1000 * cut[98]:.0f} "
                f"| {statistics.median(offline):.0f} | {statistics.median(ratios):.2f} | {differ} |",
                flush=True,
            )


def resident(process: subprocess.Popen[str]) -> float:
    """MiB that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def _soak(address: str, asked: list[str], minutes: float, process: subprocess.Popen[str]) -> None:
    done, left, rng = Counter[str](), time.monotonic() + 60 * minutes, random.Random(0)

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < left:
            body = {"model": MODEL, "prompt": rng.choice(asked), "stream": rng.random() < 0.5, "speed": rng.random()}
            if rng.random() < 0.1:
                body["prompt"] = ["not", "words"]
            async with session.post(f"{address}/v1/completions", json=body) as answer:
                if body["stream"] and rng.random() < 0.3:
                    await answer.content.readline()
                    done["left"] += 1
                    answer.close()
                    continue
                await answer.read()
                done[str(answer.status)] += 1

    async def watch() -> None:
        print("| minutes | MiB | answers |")
        print("|---" * 3 + "|")
        start, every = time.monotonic(), 60 * minutes / 10
        while time.monotonic() < left:
            print(f"| {(time.monotonic() - start) / 60:.1f} | {resident(process):.0f} | {dict(done)} |", flush=True)
            await asyncio.sleep(every)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(watch(), *(client(session) for _ in range(16)))
        await asyncio.sleep(1)
        text = await (await session.get(f"{address}/metrics")).text()
    print(f"| end | {resident(process):.0f} | {dict(done)} |")
    print(*(line for line in text.splitlines() if line.startswith("unmask_rows")), sep="; ")


def odd_body(rng: random.Random, own: Body) -> bytes:
    """A request with something wrong, or with nothing.

    Args:
        own: what its endpoint reads.
    """
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        2**80,
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        "\ud800",
        "\0",
        ["hall: red?"] * 3,
    ]
    known = [
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stop",
        "seed",
        "logprobs",
        "speed",
    ]
    known += ["target_nfe", "block_length", "policy", "stream_options", "messages", "echo", "other"]
    body: Body = {"model": MODEL, **own}
    for name in rng.sample(known, rng.randint(1, 3)):
        body[name] = rng.choice([*odd, 1, 8, 0.5, "hall: red?", POLICY])
    text = json.dumps(body).encode()
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(0, 9))) + text[at + rng.randint(0, 9) :]
    return text


async def _malformed(address: str, requests: int) -> None:
    counts, rng = Counter[int](), random.Random(0)

    async def client(session: aiohttp.ClientSession) -> None:
        while counts.total() < requests:
            chat = rng.random() < 0.3
            own = {"messages": [{"role": "user", "content": "hall: red?"}]} if chat else {"prompt": "hall: red?"}
            body, path = odd_body(rng, own), "chat/completions" if chat else "completions"
            head = {"content-type": rng.choice(["application/json"] * 9 + ["text/plain"])}
            async with session.post(f"{address}/v1/{path}", data=body, headers=head) as answer:
                text = await answer.text()
                counts[answer.status] += 1
                if answer.status >= 500:
                    print(answer.status, body, text)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(16)))
        print(f"{counts.total()} requests: {dict(sorted(counts.items()))}")
        print("health:", (await session.get(f"{address}/health")).status)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "soak", "malformed"))
    parser.add_argument("--prompts", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.what == "load":
        load(args.prompts, args.rounds)
        return
    with served() as (address, process):
        if args.what == "soak":
            asyncio.run(_soak(address, prompts(256), args.minutes, process))
        else:
            asyncio.run(_malformed(address, args.requests))


if __name__ == "__main__":
    main()
