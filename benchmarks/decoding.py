"""What decoding costs beside what it must cost. Each command prints its table; speeds are ratios within one run.

python benchmarks/decoding.py limit      bare forward passes / whole decode, on a dLLM of 31M parameters
python benchmarks/decoding.py rollouts   training roll-outs against a lock-step loop
python benchmarks/decoding.py memory     peak memory at a vocabulary of 126,464 against the same loop
python benchmarks/decoding.py same       tokens and NFE against the same loop, row by row, for every deterministic rule
python benchmarks/decoding.py shared     passes that entries of a sweep, and speeds of a policy, have in common
python benchmarks/decoding.py cost       how the cost grows with batch, length, block and policy
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM
from transformers.utils import logging

import unmask
from unmask.decoding.decode import decode
from unmask.decoding.memo import memo_of
from unmask.decoding.source import encode_example
from unmask.decoding.state import Step
from unmask.evaluation.entries import decoding, tuned
from unmask.models.base import MaskedDiffusionModel
from unmask.models.masked_lm import MaskedLM
from unmask.observation import Observation
from unmask.policies.base import LearnedPolicy, Policy
from unmask.policies.registry import tuned_rules
from unmask.policies.wrappers import Plain
from unmask.rl.config import TrainConfig
from unmask.rl.processes import Processes
from unmask.rl.prompts import fitting
from unmask.rl.rewards import load_reward
from unmask.rl.start import starting_policy
from unmask.rl.warm_start import WarmStart
from unmask.tasks.base import Task

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.oracle import RULES, Choose, plain_loop, plain_rule

SHAPES = {  # hidden, layers, heads, feed-forward, vocabulary
    "31m": (512, 6, 8, 1024, 30_000),
    "wide-vocabulary": (64, 2, 2, 128, 126_464),
    "llada-8b": (4096, 32, 32, 12_288, 126_464),
}
THRESHOLD = "confidence_threshold:threshold=0.9"
LEARNED = str(Path(__file__).parents[1] / "tests" / "data" / "house-base-full")  # of one speed, as the paper trains it


def random_model(shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> MaskedLM:
    """A dLLM of the given shape with random weights (rotary, gated feed-forward, full attention)."""
    hidden, layers, heads, feed_forward, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    config = ModernBertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        global_attn_every_n_layers=1,
        pad_token_id=0,
        bos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=vocabulary < 100_000,
        dtype=dtype,
    )
    with torch.device(device):
        network = ModernBertForMaskedLM._from_config(config, dtype=dtype)
    return MaskedLM(shape, network, unmask.load_model().tokenizer)


def synchronise(model: MaskedDiffusionModel) -> None:
    """Wait for the accelerator, if there is one."""
    if model.device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(model: MaskedDiffusionModel, work: Callable[[], object]) -> float:
    """How long it takes."""
    synchronise(model)
    start = time.perf_counter()
    work()
    synchronise(model)
    return time.perf_counter() - start


def random_prompts(model: MaskedDiffusionModel, count: int, longest: int = 16) -> list[list[int]]:
    """Prompts of half to all of a length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(longest // 2, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(4, 60, (n,), generator=generator).tolist() for n in lengths]


def record(model: MaskedDiffusionModel, policy: Policy, prompts: list[list[int]], **options: Any) -> Callable[[], None]:
    """Decode once; give back the bare forward passes of it: same rows, same positions, body and head, nothing else."""
    passes = []

    def keep(step: Step) -> None:
        where = {
            "selectable": step.observation.selectable,
            "masked": step.observation.masked,
            "region": torch.ones_like(step.observation.masked),
        }[policy.needs.positions]
        prompt = torch.zeros_like(step.before.attention[:, : step.before.prompt_width])
        flat = torch.cat([prompt, where], dim=1).flatten().nonzero()[:, 0]
        passes.append((step.before.tokens, step.before.attention, flat))

    decode(model, policy, prompts, callback=keep, **options)

    @torch.no_grad()
    def bare() -> None:
        for tokens, attention, flat in passes:
            model.logits(tokens, attention, flat)

    return bare


def compare(model: MaskedDiffusionModel, policy: Policy, runs: int, **options: Any) -> tuple[list[float], float, float]:
    """Ratios of bare passes to decode over `runs` alternating runs, and the median seconds of both."""
    prompts = random_prompts(model, options["batch_size"])
    bare = record(model, policy, prompts, **options)
    bare()
    bare_seconds, decode_seconds = [], []
    for _ in range(runs):
        bare_seconds.append(seconds(model, bare))
        decode_seconds.append(seconds(model, lambda: decode(model, policy, prompts, **options)))
    ratios = [a / b for a, b in zip(bare_seconds, decode_seconds, strict=True)]
    return ratios, statistics.median(bare_seconds), statistics.median(decode_seconds)


def limit(args: argparse.Namespace) -> None:
    """Bare forward passes over the same live rows / the whole decode."""
    dtype = torch.bfloat16 if args.device != "cpu" else torch.float32
    model = random_model(args.shape, args.device, dtype)
    parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
    print(f"{args.shape}: {parameters:.0f}M parameters, {dtype}, batch 32, L 128, {args.steps} steps, {args.runs} runs")
    print("| policy | block_length | bare / decode, median (min to max) | bare s | decode s |\n|---|---|---|---|---|")
    for name, block_length in ((THRESHOLD, 32), (THRESHOLD, 128), (LEARNED, 32), (LEARNED, 128)):
        options = {"gen_length": 128, "block_length": block_length, "batch_size": 32, "max_steps": args.steps}
        ratios, bare, whole = compare(model, unmask.load_policy(name), args.runs, **options)
        print(
            f"| {name} | {block_length} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
            f"| {bare:.2f} | {whole:.2f} |",
            flush=True,
        )
    if args.device != "cpu":
        plain_speed(model, args)


def plain_speed(model: MaskedLM, args: argparse.Namespace) -> None:
    """Tokens a second of the decode and of the plain loop with its full softmax, for the threshold rule."""
    prompts = random_prompts(model, 32)
    options = {"gen_length": 128, "block_length": 32, "max_steps": args.steps}
    policy = unmask.load_policy("top_k_confidence:k=4")
    revealed = 32 * 4 * args.steps
    ours = seconds(model, lambda: decode(model, policy, prompts, batch_size=32, **options))
    with torch.device(args.device):
        plain = seconds(model, lambda: plain_loop(model.network, prompts, top_4, **ids(model), **options))
    print(f"top-k 4, blocks of 32: {revealed / ours:.0f} tokens/s, plain loop {revealed / plain:.0f}")


def top_4(p: torch.Tensor, masked: torch.Tensor, may: torch.Tensor, step: int) -> torch.Tensor:
    """The four most confident, for a batch."""
    best = p.max(dim=-1).values.masked_fill(~may, -1).topk(4, dim=1).indices
    return torch.zeros_like(may).scatter(1, best, True)


def ids(model: MaskedLM) -> dict[str, int]:
    """What the plain loop must know of a dLLM."""
    return {"mask_id": model.mask_id, "pad_id": model.pad_id, "first_position": model.first_position}


def learned(policy: LearnedPolicy, gen_length: int) -> Choose:
    """The learned policy in the plain loop, as training draws from it."""

    def choose(p: torch.Tensor, masked: torch.Tensor, may: torch.Tensor, step: int) -> torch.Tensor:
        confidence = p.max(dim=-1, keepdim=True).values
        when = torch.full((len(p),), step / gen_length)
        logits = policy.logits(Observation(confidence, masked, may, when, torch.zeros(may.shape)))
        return torch.rand(may.shape) < logits.sigmoid()

    return choose


def cloned(model: MaskedLM, task: Task) -> LearnedPolicy:
    """The quick start's policy before its first GRPO iteration."""
    config = TrainConfig()
    torch.manual_seed(config.run.seed)
    policy = starting_policy(config.policy, model)
    prompts, _ = fitting(model, task.examples("train", config.clone.examples, seed=1), task.gen_length)
    reward = load_reward("multiplicative", 1.0)
    WarmStart(model, task, config.decode, reward, config.clone, Processes()).run(policy, prompts)
    return policy


def rollouts(args: argparse.Namespace) -> None:
    """512 roll-outs of the quick start (64 prompts x 8), batch 64, with policies as training meets them."""
    model, task = unmask.load_model(), unmask.load_task("house")
    prompts = [model.encode(example.prompt) for example in task.examples("train", 64) for _ in range(8)]
    torch.manual_seed(0)
    print(f"512 roll-outs, batch 64, {args.runs} runs; plain: lock-step batches of 64")
    print("| policy | NFE mean (max) | samples/s, ours | plain | ratio, median (min to max) |\n|---|---|---|---|---|")
    for label, policy in (
        ("cloned, where training starts", cloned(model, task)),
        ("trained (one speed)", unmask.load_policy(LEARNED)),
    ):
        drawing = Plain(policy)

        def ours(drawing: Policy = drawing) -> object:
            return decode(model, drawing, prompts, gen_length=32, batch_size=64, stop_at_eos=False)

        def plain(policy: Policy = policy) -> None:
            for i in range(0, len(prompts), 64):
                plain_loop(
                    model.network,
                    prompts[i : i + 64],
                    learned(policy, 32),
                    gen_length=32,
                    block_length=32,
                    max_steps=32,
                    **ids(model),
                )

        nfe = ours().nfe.float()
        plain()
        pairs = [(seconds(model, plain), seconds(model, ours)) for _ in range(args.runs)]
        ratios = [a / b for a, b in pairs]
        slow, fast = (512 / statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"| {label} | {nfe.mean():.1f} ({nfe.max():.0f}) | {fast:.0f} | {slow:.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


def memory(args: argparse.Namespace) -> None:
    """Peak memory above the weights at vocabulary 126,464, L 256, batch 8, each loop in a process of its own."""
    print("| loop | block_length | peak above the weights, MiB | of plain |\n|---|---|---|---|")
    plain = None
    for name, block_length in (
        ("plain", 256),
        (THRESHOLD, 32),
        (THRESHOLD, 256),
        ("entropy_bound", 256),
        (LEARNED, 256),
        ("klass", 256),
    ):
        command = [sys.executable, __file__, "peak", "--policy", name, "--block-length", str(block_length)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        plain = plain or found["mib"]
        print(f"| {name} | {block_length} | {found['mib']:.0f} | {found['mib'] / plain:.2f} |", flush=True)


def peak(args: argparse.Namespace) -> None:
    """One line of `memory`: two steps (KLASS keeps logits from the first to the second)."""
    model = random_model("wide-vocabulary")
    prompts = [[5] * 16 for _ in range(8)]
    options = {"gen_length": 256, "block_length": args.block_length, "max_steps": 2}
    with torch.no_grad():
        model.network(input_ids=torch.tensor([prompts[0]]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    if args.policy == "plain":
        plain_loop(model.network, prompts, top_4, **ids(model), **options)
    else:
        decode(model, unmask.load_policy(args.policy), prompts, batch_size=8, **options)
    print(json.dumps({"mib": (resident("VmHWM") - before) / 1024}))


def resident(name: str) -> int:
    """Memory of this process in KiB: VmRSS now, VmHWM at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def same(args: argparse.Namespace) -> None:
    """Rows whose tokens or NFE differ between the plain loop at batch 1 and ours at batch 64."""
    model, task = unmask.load_model(), unmask.load_task("house")
    prompts = [model.encode(example.prompt) for example in task.examples("test", args.prompts)]
    print(f"{args.prompts} prompts of house, {model.name}; differing rows of tokens and of NFE")
    print("| rule | block_length | tokens | NFE |\n|---|---|---|---|")
    differing = 0
    for settings in RULES:
        for block_length in (32, 8):
            options = {"gen_length": 32, "block_length": block_length}
            ours = decode(model, unmask.load_policy(settings), prompts, batch_size=64, stop_at_eos=False, **options)
            tokens = nfe = 0
            for i, prompt in enumerate(prompts):
                rule = plain_rule(settings, model.mask_id)
                expected, passes = plain_loop(model.network, [prompt], rule, **ids(model), **options)
                tokens += not torch.equal(expected[0], ours.tokens[i])
                nfe += int(passes[0] != ours.nfe[i])
            differing += tokens + nfe
            print(f"| {json.dumps(settings)} | {block_length} | {tokens} | {nfe} |", flush=True)
    sys.exit(1 if differing else 0)


def shared(args: argparse.Namespace) -> None:
    """A sweep of all rules on the bundled dLLM, and its policy at 17 speeds, each cell alone and with shared passes."""
    model, task = unmask.load_model("house-base"), unmask.load_task("house")
    prompts = [encode_example(model, example) for example in task.examples("validation", args.prompts)]
    lengths = [decoding(task.gen_length, blocks) for blocks in (4, 8, 16, 32)]
    rules = [one for length in lengths for one in tuned(length, list(tuned_rules()))]
    policy = unmask.load_policy("house-base-full")
    speeds = [lengths[-1].model_copy(update={"speed": i / 16}) for i in range(17)]
    print("| cells | passes | run | share | seconds alone | shared | alone / shared | rows that differ |")
    print("|---|---|---|---|---|---|---|---|")
    for cells in ([(one, entry.decode) for entry, one in rules], [(policy, config) for config in speeds]):
        seconds, outs = [], []
        for memo in (None, memo_of(model, [one for one, _ in cells])):
            started = time.perf_counter()
            config = {"batch_size": 256}
            outs.append([decode(model, one, prompts, how.model_copy(update=config), memo=memo) for one, how in cells])
            seconds.append(time.perf_counter() - started)
        passes, ran = sum(out.passes for out in outs[1]), sum(out.passes_run for out in outs[1])
        pairs = zip(*outs, strict=True)
        differ = sum(int((a.revealed_at != b.revealed_at).any(dim=1).sum()) for a, b in pairs)
        print(f"| {len(cells)} | {passes:,} | {ran:,} | {100 * ran / passes:.0f}% ", end="")
        print(f"| {seconds[0]:.0f} | {seconds[1]:.0f} | {seconds[0] / seconds[1]:.1f} ", end="")
        print(f"| {differ} of {len(cells) * len(prompts):,} |", flush=True)


def cost(args: argparse.Namespace) -> None:
    """Seconds a forward pass and shares, over batch, length, block and policy, on the 31M dLLM."""
    model = random_model("31m", args.device)
    base = {"batch": 8, "length": 128, "block": 32, "policy": THRESHOLD}
    changes: list[dict[str, Any]] = [{}]
    changes += [{"batch": b} for b in (1, 2, 4, 16, 32)]
    changes += [{"length": n} for n in (64, 256, 512)]
    changes += [{"block": n} for n in (8, 128)]
    names = ["top_k_confidence", "factor", "margin_threshold", "entropy_bound", "klass", LEARNED]
    changes += [{"policy": name, "block": block} for name in names for block in (32, 128)]
    print("| policy | batch | L | block | ms per pass | ms per row | body % | head % | reading % | policy % | rest % |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for change in changes:
        setting = {**base, **change}
        print(cost_row(model, setting, args), flush=True)


def cost_row(model: MaskedLM, setting: dict[str, Any], args: argparse.Namespace) -> str:
    """Decode with stop-watches around the dLLM's two halves."""
    spent = {"hidden": 0.0, "head": 0.0}
    policy = unmask.load_policy(setting["policy"])
    options = {"gen_length": setting["length"], "block_length": setting["block"], "batch_size": setting["batch"]}
    prompts = random_prompts(model, setting["batch"])

    def timed(name: str) -> Callable[..., Any]:
        original = getattr(type(model), name)

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = original(model, *arguments)
            synchronise(model)
            spent[name] += time.perf_counter() - start
            return found

        return call

    decode(model, policy, prompts, max_steps=1, **options)
    model.hidden, model.head = timed("hidden"), timed("head")  # type: ignore[method-assign]
    out = decode(model, policy, prompts, max_steps=args.steps, **options)
    del model.hidden, model.head
    passes = int(out.nfe.max())
    whole = out.total_seconds
    reading = out.model_seconds - spent["hidden"] - spent["head"]
    rest = whole - out.model_seconds - out.policy_seconds
    shares = [spent["hidden"], spent["head"], reading, out.policy_seconds, rest]
    return (
        f"| {setting['policy']} | {setting['batch']} | {setting['length']} | {setting['block']} "
        f"| {1000 * whole / passes:.0f} | {1000 * whole / out.passes:.1f} "
        + " ".join(f"| {100 * share / whole:.1f}" for share in shares)
        + " |"
    )


def main() -> None:
    """Parse and run."""
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (limit, rollouts, memory, peak, same, shared, cost):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--runs", type=int, default=5)
        sub.add_argument("--steps", type=int, default=6, help="step budget of a row")
        sub.add_argument("--prompts", type=int, default=500)
        sub.add_argument("--device", default="cpu")
        sub.add_argument("--shape", default="31m", choices=SHAPES)
        sub.add_argument("--policy", default=THRESHOLD)
        sub.add_argument("--block-length", type=int, default=32)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
