"""What the cache of a block-causal dLLM is worth: seconds per token with it and without, at random weights.

python benchmarks/cache.py                                   30M weights, blocks of 4, batches of 1 and 16
python benchmarks/cache.py --lengths 256 1024 --batches 1    shorter

A pass over a long text is timed where the text is so long: rows with a prompt of that length decode two blocks, the
first of which fills the cache and is left out. Seconds per token of an output of n tokens are the mean over its length.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from unmask.decoding.options import DecodeConfig
from unmask.decoding.session import Session
from unmask.models.block_causal import BlockCausalDecoder
from unmask.noise import row_keys
from unmask.policies import TopKConfidence
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task

BLOCK, PARTS = 4, 4  # positions of a block; places of an output at which passes are timed


def build(width: int, layers: int, tokenizer: PreTrainedTokenizerFast) -> BlockCausalDecoder:
    """A Qwen3 with random weights, as SDAR."""
    shape = Qwen3Config(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    network = Qwen3ForCausalLM(shape)
    return BlockCausalDecoder(
        "random",
        network,
        tokenizer,
        family="SDAR",
        mask_id=8191,
        eos_ids=[1],
        shifted=False,
        block_length=BLOCK,
    )


def seconds_of_a_pass(
    model: BlockCausalDecoder, before: int, batch: int, passes: int, cache: str
) -> tuple[float, float]:
    """Seconds of one pass with so many tokens before the block that is decoded, and the share outside the dLLM."""
    config = DecodeConfig(gen_length=BLOCK * (passes + 1), stop_at_eos=False, batch_size=batch, cache=cache)
    session = Session(model, TopKConfidence(BLOCK).needs, config.resolve(model))
    rows = range(batch)
    session.add([[5 + i] * max(before, BLOCK) for i in rows], list(rows), row_keys(0, torch.arange(batch)))
    policy, times, inside = TopKConfidence(BLOCK), [], 0.0
    while len(session):
        spent, start = session.totals.model_seconds, time.perf_counter()
        session.reveal(policy.select(session.observe()).long())
        times.append(time.perf_counter() - start)
        inside += session.totals.model_seconds - spent if len(times) > 1 else 0.0
    return statistics.median(times[1:]), 1 - inside / sum(times[1:])


def main() -> None:
    """A line for each length and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    tokenizer = build_tokenizer([load_task("house")])
    model = build(args.width, args.layers, tokenizer)
    count = sum(p.numel() for p in model.network.parameters())
    print(
        f"{count / 1e6:.0f}M weights, blocks of {BLOCK}, each revealed in one pass, {torch.get_num_threads()} thread(s)"
    )
    print("| tokens | batch | ms a token, cached | without | without / cached | outside the dLLM, cached |")
    print("|---|---|---|---|---|---|")
    for length in args.lengths:
        for batch in args.batches:
            found: dict[str, list[float]] = {"cached": [], "bare": [], "outside": []}
            for part in range(PARTS):
                before = length * (2 * part + 1) // (2 * PARTS) // BLOCK * BLOCK
                seconds, outside = seconds_of_a_pass(model, before, batch, args.passes, "exact")
                found["cached"].append(seconds)
                found["outside"].append(outside)
                found["bare"].append(seconds_of_a_pass(model, before, batch, args.passes, "none")[0])
            a, b = (1000 * statistics.mean(found[name]) / (BLOCK * batch) for name in ("cached", "bare"))
            outside = statistics.mean(found["outside"])
            print(f"| {length} | {batch} | {a:.2f} | {b:.2f} | {b / a:.1f} | {100 * outside:.1f}% |", flush=True)


if __name__ == "__main__":
    main()
