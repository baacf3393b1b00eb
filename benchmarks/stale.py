"""What caches cost and keep: stale ones on the bundled dLLM, and a model of the seconds that they take.

python benchmarks/stale.py house --prompts 500         accuracy, passes, positions, seconds of rules and policies
python benchmarks/stale.py house --policies runs/tuned-block8-dual/best
python benchmarks/stale.py seconds                     a cost model fitted here, and checked on other settings
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import unmask
from unmask.decoding.decode import decode
from unmask.decoding.source import encode_example
from unmask.evaluation.differences import paired_difference
from unmask.evaluation.intervals import bootstrap
from unmask.models.decoder import FullAttentionDecoder
from unmask.policies import FixedSchedule, load_policy
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task
from unmask.tasks.base import verdicts

CACHES = ("none", "prefix", "dual", "adaptive")
RULES = (
    "confidence_threshold:threshold=0.9",
    "confidence_threshold:threshold=0.5",
    "factor:factor=1",
    "entropy_bound:gamma=0.3",
)
SPEEDS = (0.0, 0.5, 1.0)
# One H100 SXM, bfloat16: bytes and operations a second (its data sheet), and the shares of them that are reached.
BANDWIDTH, OPERATIONS, REACHED = 3.35e12, 989e12, 0.6


def house(args: argparse.Namespace) -> None:
    """A line for each policy and cache."""
    model, task = unmask.load_model("house-base"), load_task("house")
    examples = task.examples("test", args.prompts)
    prompts = [encode_example(model, example) for example in examples]
    entries = [(spec, None) for spec in RULES]
    entries += [(name, speed) for name in ("house-base-block8", *args.policies) for speed in SPEEDS]
    print(
        f"house-base, house, blocks of {args.block_length}, {args.prompts} test prompts, batches of {args.batch_size}\n"
    )
    print(
        "| policy | cache | accuracy % | against none, points | NFE | whole passes | positions | seconds / none | "
        "same text % |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for spec, speed in entries:
        policy, plain, base = load_policy(spec), None, 1.0
        options = {} if speed is None else {"speed": speed}
        for cache in CACHES:
            start = time.perf_counter()
            out = decode(
                model, policy, prompts, gen_length=32, block_length=args.block_length, batch_size=args.batch_size,
                cache=cache, **options,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            right = torch.tensor(verdicts(task, examples, out.texts, out.complete.tolist())).double()[None]
            if plain is None:
                plain, base = (out, right), seconds
            gap = paired_difference(right, plain[1])
            accuracy = bootstrap(right)
            same = sum(a == b for a, b in zip(out.texts, plain[0].texts, strict=True)) / len(prompts)
            name = spec if speed is None else f"{spec} at speed {speed:g}"
            beside = "" if cache == "none" else f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
            print(
                f"| {name} | {cache} | {100 * accuracy.mean:.1f} | {beside} | {out.nfe.double().mean():.2f} | "
                f"{out.equivalents.mean():.2f} | {out.positions.double().mean():,.0f} | {seconds / base:.2f} | "
                f"{100 * same:.0f} |",
                flush=True,
            )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a decode of one row counted and took.

    Attributes:
        reads: keys of the cache that its passes looked at, all passes together.
    """

    name: str
    passes: int
    positions: int
    reads: int
    seconds: float

    @property
    def counts(self) -> list[float]:
        """What the model of the seconds is linear in."""
        return [float(self.passes), float(self.positions), float(self.reads)]


def seconds(args: argparse.Namespace) -> None:
    """Fit seconds = a passes + b positions + c keys read, and predict runs that were left out."""
    tokenizer = build_tokenizer([load_task("house")])
    model = random_llada(args.width, args.layers, tokenizer)
    count = sum(p.numel() for p in model.network.parameters())
    print(f"{count / 1e6:.0f}M random weights, full attention, blocks of 32, {torch.get_num_threads()} thread(s)\n")
    runs = [
        timed(model, prompt, length, per_pass, cache, args.repeats)
        for prompt, length, per_pass, cache in itertools.product((64, 512), (64, 256), (4, 8), CACHES[:3])
    ]
    fitted, held = runs[::2], runs[1::2]
    a = torch.tensor([run.counts for run in fitted], dtype=torch.float64)
    b = torch.tensor([run.seconds for run in fitted], dtype=torch.float64)
    weight = 1 / b[:, None]  # relative errors count
    found = torch.linalg.lstsq(a * weight, b[:, None] * weight).solution[:, 0]
    print(
        f"seconds = {found[0] * 1e3:.2f} ms a pass + {found[1] * 1e6:.1f} us a position + {found[2] * 1e9:.1f} ns a "
        f"key read, fitted to {len(fitted)} runs; predicted, of the other {len(held)}:\n"
    )  # fmt: skip
    print("| run | passes | positions | keys read | seconds | predicted | off % |")
    print("|---|---|---|---|---|---|---|")
    off = []
    for run in held:
        told = float(torch.tensor(run.counts, dtype=torch.float64) @ found)
        off.append(abs(told / run.seconds - 1))
        print(
            f"| {run.name} | {run.passes} | {run.positions:,} | {run.reads:,} | {run.seconds:.3f} | {told:.3f} | "
            f"{100 * (told / run.seconds - 1):+.0f} |"
        )
    print(f"\nOff by {100 * sum(off) / len(off):.0f}% on average, {100 * max(off):.0f}% at most.\n")
    computed(args.nfe)


def random_llada(width: int, layers: int, tokenizer: PreTrainedTokenizerFast) -> FullAttentionDecoder:
    """A Llama with random weights, as LLaDA."""
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    )
    ids = {"mask_id": 8191, "eos_ids": [1]}
    return FullAttentionDecoder("random", network, tokenizer, family="LLaDA", shifted=False, **ids)


def timed(model: FullAttentionDecoder, prompt: int, length: int, per_pass: int, cache: str, repeats: int) -> Run:
    """The fastest of some decodes of one row that reveals so many positions a pass in blocks of 32."""
    policy = FixedSchedule([per_pass] * (length // per_pass))
    took, reads = [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        out = decode(
            model, policy, [[5] * prompt], gen_length=length, block_length=32, cache=cache, stop_at_eos=False
        )  # fmt: skip
        took.append(time.perf_counter() - start)
    # Every computed position looks at the keys of the whole row.
    reads = int(out.positions.item()) * (prompt + length)
    name = f"{prompt} + {length}, {per_pass} a pass, {cache}"
    return Run(name, int(out.nfe.item()), int(out.positions.item()), reads, min(took))


@dataclass(frozen=True)
class Published:
    """What of a dLLM decides how long a pass takes; numbers of its published config.

    Attributes:
        weights: that lie in memory.
        active: that a position goes through.
        layers: of attention.
        heads: of its attention.
        head_dim: width of each.
        keys: numbers that a position's keys and values take, a layer.
        block: positions of a block.
        exact: its cache is exact, and a finished block goes in with the next one.
    """

    name: str
    weights: float
    active: float
    layers: int
    heads: int
    head_dim: int
    keys: int
    block: int
    exact: bool


H100 = (
    Published("LLaDA-8B", 8.0e9, 8.0e9, 32, 32, 128, 2 * 4096, 32, exact=False),
    Published("LLaDA2.0-mini", 16.3e9, 1.4e9, 20, 16, 128, 2 * 4 * 128, 32, exact=True),
)


def computed(nfe: int, prompt: int = 200, length: int = 256) -> None:
    """Seconds on one H100 by its data sheet: nothing of it was measured."""
    print(
        f"Computed, not measured: one H100 SXM, bfloat16, {100 * REACHED:.0f}% of {BANDWIDTH / 1e12:.2f} TB/s and "
        f"{OPERATIONS / 1e12:.0f} TFLOP/s, prompt {prompt}, {length} positions, {nfe} passes; a pass takes as long as "
        "the slower of reading (all weights, and the keys) and computing.\n"
    )
    print("| dLLM | cache | positions | s a row, batch 1 | without / with | s a row, batch 32 | without / with |")
    print("|---|---|---|---|---|---|---|")
    for one in H100:
        blocks, whole = length // one.block, prompt + length
        plans = {"none": [whole] * nfe}
        if one.exact:
            plans["exact"] = [prompt + one.block] + [2 * one.block] * (blocks - 1) + [one.block] * (nfe - blocks)
        else:
            rest = [length - one.block * (i * blocks // nfe) for i in range(nfe - blocks)]
            plans |= {"prefix": [whole] * blocks + rest, "dual": [whole] * blocks + [one.block] * (nfe - blocks)}
        base: dict[int, float] = {}
        for cache, widths in plans.items():
            cells = []
            for batch in (1, 32):
                took = sum(_pass(one, width, whole, batch) for width in widths) / batch
                cells += [f"{took:.2f}", f"{base.setdefault(batch, took) / took:.1f}"]
            print(f"| {one.name} | {cache} | {sum(widths):,} | {' | '.join(cells)} |")


def _pass(one: Published, width: int, whole: int, batch: int) -> float:
    attention = 4 * width * whole * one.layers * one.heads * one.head_dim
    reading = 2 * one.weights + 2 * batch * one.layers * one.keys * whole
    computing = batch * (2 * one.active * width + attention)
    return max(reading / (BANDWIDTH * REACHED), computing / (OPERATIONS * REACHED))


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("house")
    one.add_argument("--prompts", type=int, default=500)
    one.add_argument("--block-length", type=int, default=8)
    one.add_argument("--batch-size", type=int, default=64)
    one.add_argument("--policies", nargs="*", default=[])
    one.set_defaults(run=house)
    other = commands.add_parser("seconds")
    other.add_argument("--width", type=int, default=512)
    other.add_argument("--layers", type=int, default=8)
    other.add_argument("--repeats", type=int, default=2)
    other.add_argument("--nfe", type=int, default=64)
    other.set_defaults(run=seconds)
    args = parser.parse_args(arguments)
    args.run(args)


if __name__ == "__main__":
    main()
