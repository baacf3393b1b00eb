"""`unmask serve`."""

from __future__ import annotations

import math
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le
from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import DecodeFlags, note_default_policy
from unmask.cli.console import errors
from unmask.cli.speed import SpeedFlags, at_speed
from unmask.decoding.options import DecodeConfig, check_budget, check_policy_fits, speeds_of
from unmask.errors import UnmaskError
from unmask.models.config import ModelConfig
from unmask.policies.auto import DEFAULT_POLICY, load_policy
from unmask.policies.base import LearnedPolicy

if TYPE_CHECKING:
    from unmask.integrations.server.reading import Served

KEY = "UNMASK_API_KEY"


class ServeConfig(ModelConfig):
    """What to serve, where, and within which bounds."""

    policy: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Policies that requests may name: bundled names, folders, Hub ids or rules; the first is the "
            "default.",
        ),
    ] = (DEFAULT_POLICY,)
    served_model_name: Annotated[
        str | None, Field(description="What clients call the dLLM (default: as it is called here).")
    ] = None
    host: Annotated[str, Field(description="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535), Field(description="Port; 0 for any that is free.")] = 8000
    api_key_file: Annotated[
        Path | None, Field(description=f"File with the key that requests must bear (or {KEY} in the environment).")
    ] = None
    queue: Annotated[int, Ge(0), Field(description="Prompts that may wait; others get 429.")] = 256
    timeout: Annotated[float, Gt(0), Field(description="Seconds that a request may take, waiting included.")] = 600.0
    max_prompt: Annotated[
        int | None, Ge(1), Field(description="Tokens of a prompt at most (default: what the dLLM has room for).")
    ] = None
    max_tokens: Annotated[int, Ge(1), Field(description="Tokens of a text at most.")] = 4096
    max_body: Annotated[int, Ge(1), Field(description="Bytes of a request's body at most.")] = 2**20
    read_timeout: Annotated[float, Gt(0), Field(description="Seconds that a body may take to arrive.")] = 30.0
    grace: Annotated[float, Ge(0), Field(description="Seconds that running requests get after SIGTERM or Ctrl-C.")] = (
        30.0
    )
    access_log: Annotated[bool, Field(description="A line for each request.")] = False


def serve(
    *,
    settings: Annotated[ServeConfig | None, Parameter(name="*")] = None,
    decoding: Annotated[DecodeFlags | None, Parameter(name="*")] = None,
    speeds: Annotated[SpeedFlags | None, Parameter(name="*")] = None,
) -> None:
    """Serve a dLLM over OpenAI's API, and a page to watch it at ``/``."""
    wanted, config = settings or ServeConfig(), decoding or DecodeConfig()
    try:
        import uvicorn

        from unmask.integrations.server.app import build_app
        from unmask.integrations.server.engine import Engine
    except ImportError as e:
        raise UnmaskError(f"unmask serve needs {e.name}: pip install 'unmask[serve]'.") from None
    if config.stop:
        raise UnmaskError("stop is a request's own: leave out --stop.")
    key = _key(wanted.api_key_file)
    with _listen(wanted.host, wanted.port) as listening:
        served = _load(wanted, config, speeds)
        engine = Engine(served.model, served.policies, rows=config.batch_size, queue=wanted.queue)
        app = build_app(served, engine, key=key, most_bytes=wanted.max_body, read_seconds=wanted.read_timeout)
        host, port = listening.getsockname()[:2]
        errors.print(served.model.summary(), style="bright_black", highlight=False, soft_wrap=True)
        at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if key is None and not ip_address(host).is_loopback:
            errors.print(f"Whoever reaches this address may use it: set {KEY} to ask for a key.", style="yellow")
        told = f"Serving {served.name} at {at} (API: {at}/v1). Ctrl-C ends it."
        errors.print(told, highlight=False, soft_wrap=True)
        how = uvicorn.Config(
            app,
            log_level="info" if wanted.access_log else "warning",
            access_log=wanted.access_log,
            timeout_graceful_shutdown=math.ceil(wanted.grace),
            server_header=False,
            ws="none",
        )
        uvicorn.Server(how).run(sockets=[listening])


def _load(wanted: ServeConfig, config: DecodeConfig, speeds: SpeedFlags | None) -> Served:
    """
    Raises:
        UnmaskError: a dLLM or a policy that cannot be read, or that do not go together.
    """
    from unmask.integrations.server.reading import Served

    policies = {name: load_policy(name) for name in wanted.policy}
    model, first = wanted.load(), policies[wanted.policy[0]]
    if "policy" not in wanted.model_fields_set:
        note_default_policy(wanted.model, "--policy")
    config = config.model_copy(update={"gen_length": config.region(model=model)})
    config = at_speed(config, speeds, first, model)
    speeds_of(first.needs, config.speed, None, 1)
    for policy in policies.values():
        check_policy_fits(model, policy)
        check_budget(policy, config.resolve(model, policy=policy))
    if config.region(model=model) > wanted.max_tokens:
        raise UnmaskError(f"--max-tokens {wanted.max_tokens} is below --gen-length {config.gen_length}: raise it.")
    room = None if model.max_length is None else model.max_length - config.region(model=model)
    if room is not None and room < 1:
        raise UnmaskError(
            f"--gen-length {config.gen_length} leaves no position for a prompt, and {model.name} has "
            f"{model.max_length}: lower it."
        )
    served = Served(
        wanted.served_model_name or model.name,
        model,
        policies,
        config,
        max_prompt=wanted.max_prompt,
        max_tokens=wanted.max_tokens,
        seconds=wanted.timeout,
    )
    for name, policy in policies.items():
        own = served.table(policy).model if isinstance(policy, LearnedPolicy) and policy.calibrations else model.name
        if own != model.name:
            told = f"{name} is calibrated on the dLLM {own!r}, not on {model.name!r}: target_nfe may take others here."
            told += " unmask calibrate measures it."
            errors.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return served


def _key(path: Path | None) -> str | None:
    """
    Raises:
        UnmaskError: two keys; a file that cannot be read, or is empty.
    """
    told = os.environ.get(KEY)
    if path is None and not told:
        return None
    if path is not None and told:
        raise UnmaskError(f"There is a key in {KEY} and one in --api-key-file: give one of them.")
    if path is not None and not path.is_file():
        raise UnmaskError(f"No key at {path}: give --api-key-file a file that holds one line.")
    key = (told or "" if path is None else path.read_text(encoding="utf-8")).strip()
    if not key or not key.isprintable():
        raise UnmaskError(f"{path or KEY} holds no key: write one line of printable characters into it.")
    return key


def _listen(host: str, port: int) -> socket.socket:
    """Taken before the dLLM is loaded: clients that connect meanwhile wait.

    Raises:
        UnmaskError: the port is in use, or the address is none of this machine's.
    """
    try:
        family, _, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(at)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise UnmaskError(f"Cannot listen at {host}, port {port} ({reason}): give another --port or --host.") from None
    return listening
