"""Entry point of the `unmask` command."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise

from cyclopts import App, CycloptsError
from pydantic import ValidationError
from rich.console import Console

from unmask import __version__
from unmask.errors import Stopped, UnmaskError, explain_system
from unmask.settings import explain

app = App(
    name="unmask",
    help="Learn, evaluate and run unmasking policies for masked diffusion language models.\n\n"
    "Start with `unmask quickstart`. Each command has its own --help.",
    version=__version__,
)
# Named by path: a command is imported when it is called.
app.command(
    "unmask.cli.quickstart:quickstart",
    name="quickstart",
    help="Tune a policy for every speed on the bundled dLLM, compare it with all rules, see it decode. Start here.\n\n"
    "Takes a few minutes on two cores; everything it writes is in the run folder.",
)
app.command(
    "unmask.cli.decode:decode",
    name="decode",
    help="Complete prompts, revealing tokens as a policy says.\n\n"
    "JSONL rows hold the prompt, text, nfe, ended (complete, eos, stop or budget), seconds, tokens, revealed_at, "
    "the input's other columns and the settings. --output appears when all is done; until then finished prompts are "
    "kept in its .part, and --resume goes on from them. An --input that ends in .parquet gives a Parquet --output. "
    "Under accelerate launch, processes share the prompts.\n\n"
    'Example: unmask decode "hall: red blue gold green?" --steps\n\n'
    "Example: unmask decode --input prompts.jsonl --output out.jsonl --block-length 8\n\n"
    "The bundled dLLM and policy are the default.",
)
app.command(
    "unmask.cli.view:view",
    name="view",
    help="Watch policies decode a prompt: the text fills in step by step, on one clock.\n\n"
    "Without a prompt, one of the bundled task's, with its verdict. Where stdout is no terminal, one line per step.\n\n"
    "Example: unmask view\n\n"
    'Example: unmask view "hall: red blue gold?" --policies house-base-full --policies top_k_confidence:k=1\n\n'
    "Example: unmask view --task gsm8k --index 3 --model GSAI-ML/LLaDA-8B-Instruct --block-length 32 --html view.html",
)
app.command(
    "unmask.cli.train:train",
    name="train",
    help="Train an unmasking policy with reinforcement learning.\n\n"
    "The run folder gets config.json, versions.json, metrics.jsonl, the cloned policy (start/), the best one on "
    "validation prompts (best/) and the last checkpoint. Ctrl-C saves and stops; --resume goes on. "
    "--dry-run says what it would cost.\n\n"
    "Example: unmask train --config configs/train/house-full.toml --run runs/mine --alpha 3\n\n"
    "Example: accelerate launch -m unmask.cli train --config configs/train/house-full.toml",
)
app.command(
    "unmask.cli.train:clone",
    name="clone",
    help="Fit a policy to a rule's decisions (behaviour cloning), without reinforcement learning.\n\n"
    "The policy is in the run folder's best/. `--clone-from best:confidence_threshold` first looks for the rule's best "
    "setting and block length.\n\n"
    "Example: unmask clone --clone-from best:confidence_threshold --alpha 3 --run runs/clone",
)
app.command(
    "unmask.cli.tune:tune",
    name="tune",
    help="Make one policy for every speed: find the best rules, clone them, train, calibrate, compare, report.\n\n"
    "The run folder is a policy's: `--policy RUN --speed 0.7`, `--target-nfe 6` or `--max-drop 1%` decodes with it. "
    "Ctrl-C saves and stops; --resume goes on.\n\n"
    "Example: unmask tune --model GSAI-ML/LLaDA-8B-Instruct --task gsm8k --block-length 32 --run runs/mine",
)
app.command(
    "unmask.cli.calibrate:calibrate",
    name="calibrate",
    help="Measure a policy of every speed: forward passes and accuracy at each, for --target-nfe and --max-drop.\n\n"
    "The table goes into the policy's folder, which may hold one for each dLLM and task.\n\n"
    "Example: unmask calibrate --policy runs/mine --prompts 1000",
)
app.command(
    "unmask.cli.evaluate:evaluate",
    name="eval",
    help="Compare policies: accuracy against forward passes, with intervals.\n\n"
    "Prints a table, writes one JSONL row per prompt and seed, and a plot as PNG and SVG.\n\n"
    "Example: unmask eval --policies house-base-full --heuristics --block-lengths 32 --block-lengths 8",
)
app.command(
    "unmask.cli.sweep:sweep",
    name="sweep",
    help="Every rule at its best over a whole grid, with learned policies and their controls.\n\n"
    "Rules x settings x block lengths from the TOML file's [[rules]], or every rule over its tuned grid; learned "
    "policies at several temperatures or betas. Prints each rule's frontier and the settings it is made of.\n\n"
    "Example: unmask sweep --policies house-base-full --betas 0.5 --betas 2 --output runs/sweep\n\n"
    "Example: unmask sweep --config configs/sweep/house.toml --resume",
)
app.command(
    "unmask.cli.transfer:transfer",
    name="transfer",
    help="What policies lose on another dLLM, length or task, against one that was trained there.\n\n"
    "The TOML file names [policies] and [[targets]], each with its native policy; several files are training seeds of "
    "one policy, and its interval is over them, too.\n\n"
    "Example: unmask transfer --config configs/transfer/house.toml",
)
app.command(
    "unmask.cli.report:report",
    name="report",
    help="One self-contained page of results: accuracy against NFE, tables, training curves, transfer, and prompts "
    "decoded step by step under two policies.\n\n"
    "RUNS are folders of unmask eval, sweep, quickstart, train or transfer. Needs pip install 'unmask[report]'.\n\n"
    "Example: unmask report runs/sweep runs/mine -o report.html",
)
app.command(
    "unmask.cli.serve:serve",
    name="serve",
    help="Serve a dLLM over OpenAI's API: completions, chats, streams, and a page to watch it decode.\n\n"
    "Requests may ask for a speed, a target_nfe, a block_length or a policy, beside OpenAI's parameters. Needs pip "
    "install 'unmask[serve]'.\n\n"
    "Example: unmask serve --model GSAI-ML/LLaDA-8B-Instruct --policy runs/mine --block-length 32 --port 8000",
)
app.command(
    "unmask.cli.push:push",
    name="push",
    help="Upload a policy to the Hub: its files, its card with the curve and the calibration, how to use it.\n\n"
    '`unmask.load_policy("user/name")` then loads it, and `user/name@revision` a certain commit.\n\n'
    "Example: unmask push runs/mine me/llada-gsm8k-policy --private",
)
app.command(
    "unmask.cli.lm_eval:lm_eval",
    name="lm-eval",
    help="Run tasks of the lm-evaluation-harness: its metrics, beside forward passes and tokens per forward pass.\n\n"
    "Tasks that generate text; likelihoods a dLLM decoded by a policy does not give. Needs pip install "
    "'unmask[eval]'.\n\n"
    "Example: unmask lm-eval --tasks gsm8k --model GSAI-ML/LLaDA-8B-Instruct --policy runs/mine/best "
    "--block-length 32",
)
app.command(
    "unmask.cli.export:export",
    name="export",
    help="Write a policy for another engine: transformers (custom_generate), diffusers (a scheduler) or SGLang.\n\n"
    "Prints how to use what it wrote.\n\n"
    "Example: unmask export runs/mine for-transformers --engine transformers\n\n"
    "Example: unmask export runs/mine for-sglang --engine sglang --speed 0.7",
)
app.command(
    "unmask.cli.check_model:check_model",
    name="check-model",
    help="Load a dLLM, say what was found (family, ids, memory), and check what decoding relies on.\n\n"
    "Example: unmask check-model GSAI-ML/LLaDA-8B-Instruct --dtype bfloat16",
)
app.command(
    "unmask.cli.pretrain:pretrain",
    name="pretrain",
    help="Train a small dLLM from scratch on procedural tasks.\n\n"
    "Writes a standard Hugging Face folder with a model card. Ctrl-C saves and stops; --resume goes on, also where "
    "only the card is missing.\n\n"
    "Example: unmask pretrain --config configs/pretrain/house-base.toml --output runs/house-base",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input ends in one sentence on stderr and exit code 2."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and not codecs.lookup(stream.encoding or "utf-8").name.startswith("utf"):
            stream.reconfigure(errors="backslashreplace")  # a terminal of ASCII shows the rest by its number
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except UnmaskError as e:
        _refuse(str(e))
    except BrokenPipeError:  # such as `| head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        _refuse(explain_system(e))
    except CycloptsError as e:
        cause = e.__cause__
        ours = isinstance(cause, UnmaskError)
        told = explain(cause) if isinstance(cause, ValidationError) else str(cause if ours else e)
        _refuse(told + _of_a_minus(told, tokens))
    except Stopped as e:
        Console(stderr=True).print(str(e), markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)


def _of_a_minus(told: str, tokens: Sequence[str]) -> str:
    """The remedy for a value such as -0.01,3 that was taken for a flag."""
    for flag, value in pairwise(tokens):
        if "requires an argument" in told and flag in told and re.match(r"-[^-]", value):
            return f" Join a value that begins with a minus to it: {flag}={value}."
    return ""


def _refuse(sentence: str) -> None:
    Console(stderr=True).print(f"unmask: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
