"""One policy and one dLLM in every engine: are the tokens those of `unmask.generate`?

python benchmarks/engines.py                  a table; engines that are not installed are named
python benchmarks/engines.py sglang           SGLang alone, on a CPU where there is no GPU

SGLang 0.5.23 ran so on a CPU, with torch 2.13.0 and transformers 5.19.0 (its pin) and 5.23.0 in an environment of its
own: `pip install --no-deps` of sglang, triton and the packages that its import names. Two of its packages ask for a GPU
(sgl_kernel, torchvision): where there is none, this script puts empty modules in their place, in every process that
SGLang starts. It was not run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from urllib.request import Request, urlopen

import torch

import unmask
from unmask.cli.main import main as command
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.hub import bundled
from unmask.models.base import MaskedDiffusionModel
from unmask.tasks.auto import load_task

DLLM, POLICY, SPEEDS, LENGTH = "house-block-causal", "house-block-causal", (0.0, 0.5, 1.0), 40
# A block-causal dLLM's config as SGLang reads it, by the code in its folder.
CONFIG = """from transformers import Qwen3Config


class SDARConfig(Qwen3Config):
    model_type = "sdar"
"""
# Modules that pretend to hold whatever is asked of them; what SGLang calls of them on a CPU it has itself.
STUBS = """import importlib.abc, importlib.machinery, sys, types


class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Stub(types.ModuleType):
    __path__, __version__ = [], "9.9.9"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {"__init__": lambda self, *a, **k: None})


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sgl_kernel", "torchvision"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Stubs())
"""
Tokens = list[list[int]]


def prompts_of(model: MaskedDiffusionModel, n: int) -> Tokens:
    """Prompts of one length, as diffusers' pipeline wants them: the commonest among a task's."""
    found = [model.encode(example.prompt) for example in load_task("house").examples("test", 200)]
    length = Counter(map(len, found)).most_common(1)[0][0]
    return [prompt for prompt in found if len(prompt) == length][:n]


def wanted(model: MaskedDiffusionModel, prompts: Tokens, speed: float, streams: Sequence[int] | None = None) -> Tokens:
    """By `unmask.generate`'s loop."""
    policy, how = unmask.load_policy(POLICY), {"gen_length": LENGTH, "stop_at_eos": False, "speed": speed}
    return decode(model, policy, prompts, streams=streams, **how).tokens.tolist()


def by_diffusers(model: MaskedDiffusionModel, prompts: Tokens, speed: float, folder: Path) -> Tokens:
    """LLaDA2Pipeline with an exported scheduler."""
    from diffusers import LLaDA2Pipeline

    from unmask.integrations.diffusers import PipelineModel, UnmaskScheduler

    export(folder, "diffusers", "--speed", str(speed), "--gen-length", str(LENGTH))
    pipe = LLaDA2Pipeline(PipelineModel(model), UnmaskScheduler.from_pretrained(folder), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        input_ids=torch.tensor(prompts),
        gen_length=LENGTH,
        block_length=model.block_length,
        mask_token_id=model.mask_id,
        eos_early_stop=False,
        output_type="seq",
    ).sequences.tolist()


def by_custom_generate(model: MaskedDiffusionModel, prompts: Tokens, speed: float, folder: Path) -> Tokens:
    """`generate` of transformers with an exported folder."""
    export(folder, "transformers", "--speed", str(speed))
    found = model.network.generate(
        input_ids=torch.tensor(prompts),
        custom_generate=str(folder),
        trust_remote_code=True,
        max_new_tokens=LENGTH,
        stop_at_eos=False,
    )
    return found[:, len(prompts[0]) :].tolist()


def export(folder: Path, engine: str, *flags: str) -> None:
    """`unmask export`, without what it prints."""
    with redirect_stdout(StringIO()):
        command(["export", POLICY, str(folder), "--engine", engine, *flags])


def by_server(model: MaskedDiffusionModel, prompts: Tokens, speed: float, folder: Path) -> Tokens:
    """`unmask serve`, asked over HTTP; tokens are those of its texts, as these words are one token each."""
    command = [sys.executable, "-m", "unmask.cli", "serve", "--model", DLLM, "--policy", POLICY, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        address = next(found[1] for line in process.stderr if (found := re.search(r"at (http://\S+) ", line)))
        body = {"model": DLLM, "prompt": prompts, "max_tokens": LENGTH, "speed": speed}
        request = Request(f"{address}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urlopen(request) as answer:
            texts = [choice["text"] for choice in json.load(answer)["choices"]]
    finally:
        process.terminate()
        process.wait()
    return [model.encode(text) for text in texts]


ENGINES = {"diffusers": by_diffusers, "custom_generate": by_custom_generate, "unmask serve": by_server}


def table(n: int) -> None:
    """A line per engine."""
    model = unmask.load_model(DLLM)
    prompts = prompts_of(model, n)
    lines = []
    for name, engine in ENGINES.items():
        if name == "diffusers" and find_spec(name) is None:
            lines.append(f"| {name} | not installed |")
            continue
        same = 0
        for speed in SPEEDS:
            with tempfile.TemporaryDirectory() as folder:
                found, own = engine(model, prompts, speed, Path(folder) / "out"), wanted(model, prompts, speed)
            if engine is by_server:  # which gives text alone
                own = [model.encode(model.text(tokens)) for tokens in own]
            same += agree(found, own)
        lines.append(f"| {name} | {same} of {len(SPEEDS) * len(prompts)} |")
    print(f"\n{POLICY} on {DLLM}, {LENGTH} tokens, speeds {', '.join(map(str, SPEEDS))}\n")
    print("| engine | completions equal to unmask.generate |\n|---|---|", *lines, sep="\n", flush=True)
    if find_spec("sglang") is None:
        print("| SGLang | not installed |")
    else:
        sglang(n)


def agree(ours: Tokens, theirs: Tokens) -> int:
    """Completions that are equal, token by token."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True))


def sglang(n: int) -> None:
    """A line for SGLang, run in a process that has the stubs where there is no GPU."""
    if find_spec("sglang") is None:
        raise UnmaskError("There is no SGLang here: install it as the head of this file says.")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "BENCHMARK_FOLDER": folder}
        if not torch.cuda.is_available():
            (Path(folder) / "stubs").mkdir()
            (Path(folder) / "stubs" / "sitecustomize.py").write_text(STUBS)
            path = os.pathsep.join([f"{folder}/stubs", *filter(None, [os.environ.get("PYTHONPATH")])])
            environment |= {"PYTHONPATH": path, "SGLANG_USE_CPU_ENGINE": "1"}
        run = [sys.executable, __file__, "in-sglang", "--prompts", str(n)]
        subprocess.run(run, env=environment, check=True)


def in_sglang(n: int) -> None:
    """Start the engine, and send it all prompts at all speeds at once."""
    import sglang as engines

    from unmask.integrations.sglang import stream_of

    folder, model = Path(os.environ["BENCHMARK_FOLDER"]), unmask.load_model(DLLM)
    shutil.copytree(bundled("models")[DLLM], folder / "dllm")
    (folder / "dllm" / "configuration_sdar.py").write_text(CONFIG)
    config = (
        (folder / "dllm" / "config.json")
        .read_text()
        .replace("{", '{\n  "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},\n  "rope_theta": 10000.0,', 1)
    )
    (folder / "dllm" / "config.json").write_text(config)
    export(folder / "out", "sglang", "--block-length", str(model.block_length), "--mask-id", str(model.mask_id))
    place = {} if torch.cuda.is_available() else {"device": "cpu", "attention_backend": "torch_native"}
    started = time.perf_counter()
    engine = engines.Engine(
        model_path=str(folder / "dllm"),
        trust_remote_code=True,
        skip_tokenizer_init=True,
        dtype="float32",
        disable_cuda_graph=True,
        disable_overlap_schedule=True,
        dllm_algorithm="Unmask",
        dllm_algorithm_config=str(folder / "out" / "unmask.yaml"),
        max_running_requests=8,
        max_total_tokens=4096,
        mem_fraction_static=0.5,
        log_level="warning",
        **place,
    )
    ready = time.perf_counter()
    prompts, same = prompts_of(model, n), 0
    asked = [(prompt, speed) for speed in SPEEDS for prompt in prompts]
    names = [f"request-{i}" for i in range(len(asked))]
    usual = {"max_new_tokens": LENGTH, "temperature": 0, "ignore_eos": True}
    found = engine.generate(
        input_ids=[prompt for prompt, _ in asked],
        sampling_params=[{**usual, "custom_params": {"speed": speed}} for _, speed in asked],
        rid=names,
    )
    for (prompt, speed), name, out in zip(asked, names, found, strict=True):
        same += agree([out["output_ids"]], wanted(model, [prompt], speed, [stream_of(name)]))
    print(f"| SGLang {engines.__version__} | {same} of {len(asked)} |")
    print(f"(SGLang started in {ready - started:.0f} s and decoded for {time.perf_counter() - ready:.0f} s.)")
    engine.shutdown()


def main() -> None:
    """The table, or one engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("table", "sglang", "in-sglang"), default="table")
    parser.add_argument("--prompts", type=int, default=16)
    given = parser.parse_args()
    {"table": table, "sglang": sglang, "in-sglang": in_sglang}[given.what](given.prompts)


if __name__ == "__main__":
    main()
