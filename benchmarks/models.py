"""dLLMs at their real widths with random bf16 weights: loading, memory, seconds per step, batch scaling.

python benchmarks/models.py load                       # a few layers of each, written sharded, loaded, decoded
python benchmarks/models.py speed --device cuda        # whole depth, where an accelerator is at hand
python benchmarks/models.py speed --layers 2 --batches 1 2 4 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layouts import BLOCK_CAUSAL, LLADA_MOE, SDAR_8B
from benchmarks.published import DREAM, LLADA, Config, tiny, write

import unmask
from unmask.cli.main import main as main_of_unmask
from unmask.decoding.decode import decode
from unmask.models.decoder import FullAttentionDecoder
from unmask.models.dream import qwen2_config
from unmask.models.llada import llama_config, rotate_in_float32
from unmask.rl.run import read_metrics

SHAPES = {"llada-8b": LLADA, "dream-7b": DREAM}
# The stand-in for Stable-DiffCoder's tokenizer has its EOS behind the vocabulary.
LOADED = SHAPES | {"llada-moe-7b": LLADA_MOE, **BLOCK_CAUSAL, "sdar-8b": SDAR_8B}
LOADED["stable-diffcoder"] = {**BLOCK_CAUSAL["stable-diffcoder"], "eos_token_id": 155100}
LAYERS = {"llada-8b": 4, "dream-7b": 3}  # and 2 of the others
PROMPT, REGION = 200, 256  # tokens, as in the paper


def cut(shape: str, layers: int | None) -> Config:
    """A published config, with fewer layers if asked."""
    depth = "n_layers" if shape == "llada-8b" else "num_hidden_layers"
    return {**LOADED[shape], **({depth: layers} if layers else {})}


def peak() -> float:
    """GiB of memory this process has held at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def load(shape: str, layers: int, folder: Path) -> None:
    """Write a published folder in shards of 1 GB, load it in bf16, decode two prompts for a few steps."""
    target = folder / shape
    write(target, cut(shape, layers), ["what is twelve times seven?"], dtype=torch.bfloat16, shard="1GB")
    size = sum(file.stat().st_size for file in target.glob("*.safetensors")) / 2**30
    pid = torch.multiprocessing.get_context("spawn").Process(target=_load_one, args=(str(target), shape, layers, size))
    pid.start()
    pid.join()
    shutil.rmtree(target)


def _load_one(target: str, shape: str, layers: int, size: float) -> None:
    before, start = peak(), time.perf_counter()
    model = unmask.load_model(target, device="cpu")
    loaded = time.perf_counter() - start
    tokens = [[5] * 40, [6] * 17]
    out = decode(model, unmask.load_policy("top_k_confidence:k=8"), tokens, gen_length=32, max_steps=2)
    dtypes = {str(p.dtype) for p in model.network.parameters()}
    shards = len(list(Path(target).glob("*.safetensors")))
    print(
        f"| {shape} | {layers} | {shards} | {size:.2f} | {loaded:.1f} | {peak() - before:.2f} | {', '.join(dtypes)} "
        f"| {out.total_seconds / 2:.2f} |",
        flush=True,
    )


def build(shape: str, layers: int | None, device: str) -> FullAttentionDecoder:
    """The architecture with random bf16 weights on a device; the bundled tokenizer stands in."""
    config = cut(shape, layers)
    torch.manual_seed(0)
    with torch.device(device):
        network: PreTrainedModel = (
            LlamaForCausalLM._from_config(llama_config(shape, config), dtype=torch.bfloat16)
            if shape == "llada-8b"
            else Qwen2ForCausalLM._from_config(qwen2_config(shape, config), dtype=torch.bfloat16)
        )
    if shape == "llada-8b":
        rotate_in_float32(network)
    return FullAttentionDecoder(
        shape,
        network,
        unmask.load_model(device="cpu").tokenizer,
        family=shape,
        mask_id=config["mask_token_id"],
        eos_ids=[config["eos_token_id"]],
        shifted=shape == "dream-7b",
    )


def speed(shape: str, layers: int | None, device: str, batches: list[int], repeats: int) -> None:
    """Seconds per decoding step at growing batches, and the memory held at most."""
    model = build(shape, layers, device)
    policy = unmask.load_policy("top_k_confidence:k=1")
    first: float | None = None
    for batch in batches:
        prompts = [[5 + i % 50] * PROMPT for i in range(batch)]
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for repeat in range(repeats + 1):
            out = decode(model, policy, prompts, gen_length=REGION, batch_size=batch, max_steps=4, stop_at_eos=False)
            seconds += [out.total_seconds / 4] if repeat else []
        step = sorted(seconds)[len(seconds) // 2]
        first = first or step
        held = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak()
        rate = batch / step * first
        print(
            f"| {shape} | {layers or 'all'} | {device} | {batch} | {step:.3f} | {rate:.2f} | {held:.1f} |", flush=True
        )


def real(data: Path, folder: Path) -> None:
    """A training step and an evaluation on real prompts at real lengths, with a LLaDA of random weights.

    Its answers are noise and its reward is zero: shown is that the whole path runs, and what it costs.
    """
    questions = [json.loads(line)["question"] for line in data.read_text(encoding="utf-8").splitlines()]
    config = {**tiny(LLADA, 2048, 4), "d_model": 256, "n_heads": 8, "n_kv_heads": 8, "mlp_hidden_size": 768}
    write(folder / "llada", config, questions, dtype=torch.bfloat16)
    shared = ["--model", folder / "llada", "--task", "gsm8k", "--task-path", data, "--gen-length", REGION]
    run, found = folder / "run", folder / "eval"
    train = [
        "--block-length",
        32,
        "--iterations",
        1,
        "--algorithm.prompts",
        2,
        "--algorithm.group-size",
        4,
        "--algorithm.min-signal",
        0,
    ]
    train += [
        "--clone-from",
        "none",
        "--validation-prompts",
        4,
        "--max-prompt-length",
        PROMPT,
        "--long-prompts",
        "skip",
    ]
    train += ["--run", run]
    where = ["--policies", run / "best", "--block-lengths", 32, "--prompts", 8, "--seeds", 1, "--output", found]
    start = time.perf_counter()
    for command in (["train", *shared, *train], ["eval", *shared, *where]):
        main_of_unmask([str(part) for part in command])
    seconds = time.perf_counter() - start
    step = next(line for line in read_metrics(run / "metrics.jsonl") if line["stage"] == "grpo")
    rows = [json.loads(line) for line in (found / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    print(
        f"training step: {step['passes']} forward passes, NFE {step['nfe']:.0f}, reward {step['reward']:.3f}, "
        f"{step['seconds']:.1f} s (dLLM {step['seconds_model']:.1f}, policy {step['seconds_policy']:.1f}, update "
        f"{step['seconds_update']:.1f}); evaluation: {len(rows)} prompts, {sum(row['nfe'] for row in rows)} forward "
        f"passes, {sum(row['correct'] for row in rows)} right; {seconds:.0f} s in all"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "speed", "real"))
    parser.add_argument("--shapes", nargs="+", choices=list(LOADED))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--data", type=Path, help="JSONL file of GSM8K")
    args = parser.parse_args()
    if args.what == "load":
        print("| dLLM | layers | shards | GiB of files | s to load | GiB held at most | dtype | s a step |")
        print("|---" * 8 + "|")
        with tempfile.TemporaryDirectory() as scratch:
            for shape in args.shapes or LOADED:
                load(shape, args.layers or LAYERS.get(shape, 2), args.folder or Path(scratch))
    elif args.what == "speed":
        print("| dLLM | layers | device | rows | s a step | rows a step-time of one | GiB held at most |")
        print("|---" * 7 + "|")
        for shape in args.shapes or SHAPES:
            speed(shape, args.layers, args.device, args.batches, args.repeats)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            real(args.data, args.folder or Path(scratch))


if __name__ == "__main__":
    main()
