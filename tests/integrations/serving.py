"""A server in a thread, for tests: over real sockets, asked by OpenAI's own client."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

import unmask
from unmask.decoding.options import DecodeConfig

uvicorn = pytest.importorskip("uvicorn")

from unmask.integrations.server.app import build_app
from unmask.integrations.server.engine import Engine
from unmask.integrations.server.reading import Served

ROOMS, WORDS = ["hall", "attic", "cellar", "porch"], ["red", "blue", "gold", "green"]
PROMPTS = [f"{ROOMS[i % 4]}: {' '.join(WORDS[(i + j) % 4] for j in range(1 + i % 5))}?" for i in range(64)]
THRESHOLD = "confidence_threshold:threshold=0.9"


@contextmanager
def serving(model, policies, *, config=None, rows=64, queue=256, guard=None, **options):
    """(address, engine) of a server."""
    loaded, config = {name: unmask.load_policy(name) for name in policies}, config or DecodeConfig()
    config = config.model_copy(update={"gen_length": config.region(None, model)})
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


def ask(client, prompt, **options):
    return client.completions.create(model="house-base", prompt=prompt, **options)
