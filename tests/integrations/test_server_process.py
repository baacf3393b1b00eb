"""`unmask serve` as a process: it ends as a service must, and bears what the network brings."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.integrations.serving import PROMPTS, THRESHOLD

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow


@pytest.fixture
def process():
    command = [sys.executable, "-m", "unmask.cli", "serve", "--port", "0", "--policy", THRESHOLD, "--batch-size", "8"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = next(found.group(1) for line in started.stderr if (found := re.search(r"at (http://\S+) ", line)))
    yield started, address
    started.kill()
    started.wait()
    started.stderr.close()


def test_sigterm_in_the_middle_of_64_streams_ends_all_of_them_whole(process):
    started, address = process
    texts, first = [None] * 64, threading.Barrier(65, timeout=60)

    def one(i):
        body = {"model": "house-base", "prompt": PROMPTS[i], "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as answer:
            first.wait()
            texts[i] = [line.removeprefix("data: ") for line in answer.iter_lines() if line]

    clients = [threading.Thread(target=one, args=(i,)) for i in range(64)]
    for client in clients:
        client.start()
    first.wait()
    started.send_signal(signal.SIGTERM)
    for client in clients:
        client.join()
    assert all(lines[-1] == "[DONE]" for lines in texts)
    assert all(json.loads(lines[-2])["choices"][0]["finish_reason"] == "stop" for lines in texts)
    assert started.wait(timeout=30) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_who_hangs_up_in_the_middle_of_anything_does_no_harm(process):
    started, address = process
    host, port = address.removeprefix("http://").split(":")
    request = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    )
    body = json.dumps({"model": "house-base", "prompt": PROMPTS[4], "stream": True}).encode()
    whole = request % (len(body), body)
    for cut in [*range(0, len(whole), 7), *[len(whole)] * 20]:
        with socket.create_connection((host, int(port))) as client:
            client.sendall(whole[:cut])
    found = httpx.post(f"{address}/v1/completions", json={"model": "house-base", "prompt": PROMPTS[4]}, timeout=30)
    assert found.status_code == 200
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    assert "unmask_rows_waiting 0.0" in lines
    assert started.poll() is None
