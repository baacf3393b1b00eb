"""The paper's trainings on the bundled dLLM: what each study trains, and how; training.py and reproduce.py show it.

Every run is `unmask train` with the flags below, one thread, seeds 0 to 2, and `unmask eval` of its best checkpoint on
500 held-out prompts.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.studies import Progress, unmask

ALPHAS = (0.0, 0.3, 1.0, 3.0, 10.0)
PROMPTS = 500

Flags = dict[str, Any]
COMMON: Flags = {"iterations": 80, "validate-every": 20, "validation-prompts": 128}
SCRATCH: Flags = {"clone-from": "none"}
WARM: Flags = {"warm": True}  # from the clone of its seed and block length, which all share
STEERED: Flags = {
    **SCRATCH,
    "algorithm.experts": "confidence_threshold:threshold=0.9 @ 8",
    "algorithm.min-signal": 0.01,
}
PLAIN: Flags = {"algorithm.scale-advantages": "none", "lr": 2e-4}  # advantages as in the paper
SCALED: Flags = {"algorithm.scale-advantages": "batch", "lr": 5e-5}
BLOCKS: Flags = {"block-length": 8}
PLACE = (
    "model",
    "task",
    "weights",
    "gen-length",
)  # where a run is trained and evaluated: house-base, house and 32 by default
BOTH: Flags = {"task": "house+ledger", "weights": (1, 1)}
# Few roll-outs an iteration, large steps.
SHORT: Flags = {
    "iterations": 32,
    "validate-every": 4,
    "algorithm.group-size": 4,
    "algorithm.scale-advantages": "batch",
    "lr": 4e-4,
}


def _alphas(name: str, alphas: Sequence[float] = ALPHAS, **flags: Any) -> dict[str, Flags]:
    return {f"{name}, alpha {alpha:g}": {**flags, "alpha": alpha} for alpha in alphas}


STUDIES: dict[str, dict[str, Flags]] = {
    # Full diffusion from a clone: does alpha trade accuracy for speed, and what keeps it from doing so?
    "alpha": {
        **_alphas("scaled", **WARM, **SCALED),
        **_alphas("paper's advantages", (0.3, 1.0, 10.0), **WARM, **PLAIN),
    },
    # The same at alpha 0.3, where seeds part most: which change brings them together?
    "spread": {
        "scaled, lr 2e-4": {**WARM, **SCALED, "lr": 2e-4, "alpha": 0.3},
        "scaled, lr 2e-4, entropy 0.01": {**WARM, **SCALED, "lr": 2e-4, "alpha": 0.3, "algorithm.entropy-weight": 0.01},
    },
    # Semi-autoregressive decoding in blocks of a quarter of the region.
    "semi": {**_alphas("warm start", **BLOCKS, **WARM, **SCALED)},
    # Full diffusion at alpha 1: the long warm start is "scaled, alpha 1" above.
    "full": {
        "expert steering": {**STEERED, **PLAIN, "iterations": 200},
        "expert steering, forced progress": {**STEERED, **PLAIN, "iterations": 200, "algorithm.force-progress": None},
        "from scratch": {**SCRATCH, **PLAIN, "iterations": 200, "algorithm.min-signal": 0.01},
        "warm start, short": {**SHORT, "clone.examples": 32, "clone.updates": 100},
    },
    # Full diffusion at alpha 1 from a clone, each of its own where the network is another: beside "scaled, alpha 1".
    "ablations": {
        "DPLS": {**SCALED, "policy.actions": "dpls"},
        "top 8 confidences": {**SCALED, "policy.top-k": 8},
        "without t": {**SCALED, "policy.no-use-time": None},
        "without m": {**SCALED, "policy.no-use-mask": None},
        "hidden states": {**SCALED, "policy.reads": "hidden_states"},
        "released time embedding (P = 1)": {**SCALED, "policy.time-period": 1.0},
        "additive, alpha 1": {**WARM, **SCALED, "algorithm.reward": "additive"},
        "additive, alpha 3": {**WARM, **SCALED, "algorithm.reward": "additive", "alpha": 3.0},
        "additive, alpha 10": {**WARM, **SCALED, "algorithm.reward": "additive", "alpha": 10.0},
    },
    # Blocks at alpha 1: what it costs to get there.
    "cost": {
        "from scratch": {**BLOCKS, **SCRATCH, **PLAIN, "iterations": 150, "validate-every": 10},
        "expert steering": {**BLOCKS, **STEERED, **PLAIN, "iterations": 150, "validate-every": 10},
        "warm start": {**BLOCKS, **SCALED, "validate-every": 5, "clone.examples": 32, "clone.updates": 100},
        "from scratch, short": {**BLOCKS, **SCRATCH, **SHORT},
        "warm start, short": {**BLOCKS, **SHORT, "clone.examples": 32, "clone.updates": 100},
    },
    # Policies trained where those of "alpha" and "semi" are tried without having been trained: another dLLM, twice the
    # length, another domain, both domains.
    "elsewhere": {
        **_alphas("house-small, blocks", (1.0, 10.0), **BLOCKS, **WARM, **SCALED, model="house-small"),
        **_alphas("house-small, full", (1.0, 10.0), **WARM, **SCALED, model="house-small"),
        **_alphas("length 64, blocks", (1.0,), **BLOCKS, **WARM, **SCALED, **{"gen-length": 64}),
        **_alphas("length 64, full", (1.0,), **WARM, **SCALED, **{"gen-length": 64}),
        **_alphas("ledger, blocks", (1.0, 10.0), **BLOCKS, **WARM, **SCALED, task="ledger"),
        **_alphas("ledger, full", (1.0,), **WARM, **SCALED, task="ledger"),
        **_alphas("both domains, blocks", (1.0,), **BLOCKS, **WARM, **SCALED, **BOTH),
        **_alphas("both domains, full", (1.0,), **WARM, **SCALED, **BOTH),
    },
    # Blocks from scratch: does a form of the reward reveal everything at once?
    "hacking": {
        f"{reward}, alpha {alpha:g}": {**BLOCKS, **SCRATCH, **PLAIN, "algorithm.reward": reward, "alpha": alpha}
        for reward in ("multiplicative", "additive")
        for alpha in (1.0, 10.0)
    },
}


def folder(out: Path, study: str, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / study / "".join(c if c.isalnum() or c in ".-" else "-" for c in name) / f"seed-{seed}"


def options(flags: Flags) -> list[str]:
    """As the command line takes them: None is a switch, several values repeat the flag."""
    values = {key: value if isinstance(value, tuple) else (value,) for key, value in flags.items()}
    return [f"--{key}" if one is None else f"--{key}={one}" for key, several in values.items() for one in several]


def train(out: Path, study: str, name: str, flags: Flags, seed: int) -> None:
    """One run, resumed if it was cut, then its evaluation."""
    run = folder(out, study, name, seed)
    if not (run / "eval" / "rows.jsonl").exists():
        given = {**COMMON, **flags, "seed": seed, "run": run}
        if given.pop("warm", False):
            given |= {**SCRATCH, "policy.init": clone_of(out, flags, seed) / "best"}
        unmask("train", *options(given), *(["--resume"] if begun(run) else []))
        place = options({key: flags[key] for key in PLACE if key in flags})
        block = str(flags.get("block-length", flags.get("gen-length", 32)))
        where = ["--block-lengths", block, "--prompts", str(PROMPTS), "--seeds", "1"]
        command("eval", run / "eval", "--policies", str(run / "best"), *place, *where)


def command(name: str, folder: Path, *argv: str) -> None:
    """`unmask eval`, `sweep` or `transfer` into a folder, resumed if it was cut."""
    unmask(name, *argv, "--output", str(folder), *(["--resume"] if begun(folder) else []))


def begun(folder: Path) -> bool:
    """Whether a command has written into it; a transfer does so into a folder for each target."""
    return (folder / "config.json").exists() or any(folder.glob("*/config.json"))


def clone_of(out: Path, flags: Flags, seed: int) -> Path:
    """Where the clone of a seed is kept: the quick start's, of the threshold 0.9 in blocks of 8."""
    place = "".join(f"{flags[key]}-" for key in PLACE if key in flags and key != "weights")
    return out / "clones" / f"{place}block-{flags.get('block-length', flags.get('gen-length', 32))}-seed-{seed}"


def prepare(out: Path, flags: Flags, seed: int) -> None:
    """Clone for a warm start, if it is missing."""
    run = clone_of(out, flags, seed)
    if flags.get("warm") and not (run / "best" / "README.md").exists():
        where = options({key: flags[key] for key in (*PLACE, "block-length") if key in flags})
        again = ["--resume"] if begun(run) else []
        unmask("clone", *where, f"--seed={seed}", f"--run={run}", "--validation-prompts=128", *again)


def rules(out: Path) -> None:
    """Every rule over its grid, on the same prompts."""
    if not (out / "rules" / "rows.jsonl").exists():
        lengths = options({"block-lengths": (32, 16, 8, 4, 2)})
        command("sweep", out / "rules", "--prompts", str(PROMPTS), "--seeds", "1", *lengths)


def run(out: Path, studies: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Train and evaluate what is missing, all names with one seed before the next."""
    todo = [(study, name, flags, seed) for seed in seeds for study in studies for name, flags in STUDIES[study].items()]

    def one(item: tuple[str, str, Flags, int]) -> None:
        started = time.monotonic()
        try:
            train(out, *item)
        except subprocess.CalledProcessError as e:  # the others need not wait for it
            print(e, flush=True)
        progress.tell(f"{item[0]}: {item[1]}, seed {item[3]}", time.monotonic() - started)

    with ThreadPoolExecutor(jobs) as pool:
        clones = {clone_of(out, flags, seed): (out, flags, seed) for _, _, flags, seed in todo if flags.get("warm")}
        for job in [pool.submit(prepare, *of) for of in clones.values()]:
            job.result()
        grid, progress = pool.submit(rules, out), Progress(len(todo))
        list(pool.map(one, todo))
        grid.result()
    missing = [item for item in todo if not (folder(out, item[0], item[1], item[3]) / "eval" / "rows.jsonl").exists()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(todo)} runs failed; run again to go on with them.")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of an evaluation."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
