"""Does the sandbox pass what is right and fail what is not, and how fast?

    python benchmarks/sandbox.py FOLDER

The folder has ``humaneval_test.jsonl`` (164 rows) and ``mbpp.jsonl`` (974 rows) as their authors publish them. Prints
how many reference solutions pass, which do not and why, how many still pass with each function's body replaced by
``pass``, and programs a minute.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
import warnings
from pathlib import Path
from typing import Any

from unmask.sandbox import Program, Sandbox, protection

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def humaneval(row: Row, code: str | None = None) -> Program:
    """The prompt, which defines helpers that some tests use, is trusted; the entry point is the code's."""
    code = row["prompt"] + row["canonical_solution"] if code is None else code
    name = row["entry_point"]
    return Program(code, f"{row['test']}\ncheck({name})", row["prompt"], (name,))


def mbpp(row: Row, code: str | None = None) -> Program:
    """Tests take what the reference defines: some of its functions have the name of a builtin."""
    defined = [node.name for node in _parse(row["code"]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    tests = "\n".join([row["test_setup_code"], *row["test_list"], *row["challenge_test_list"]])
    return Program(row["code"] if code is None else code, tests, "", tuple(defined))


def emptied(code: str) -> str:
    """The code with ``pass`` for the body of every function."""
    tree = _parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some references have invalid escape sequences
        return ast.parse(code)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    sandbox = Sandbox(workers=args.workers)
    print(f"layers: {', '.join(protection())}; {sandbox.workers} workers")
    for name, make, file in (("HumanEval", humaneval, "humaneval_test.jsonl"), ("MBPP", mbpp, "mbpp.jsonl")):
        rows = rows_of(args.folder / file)
        gold = [make(row) for row in rows]
        start = time.monotonic()
        verdicts = sandbox.run_all(gold)
        rate = 60 * len(rows) / (time.monotonic() - start)
        print(f"{name}: {sum(v.passed for v in verdicts)} of {len(rows)} pass; {rate:.0f} programs a minute")
        for row, verdict in zip(rows, verdicts, strict=True):
            if not verdict.passed:
                print(f"  {row['task_id']} does not: {verdict.reason}, {verdict.message} ({verdict.seconds:.1f} s)")
        verdicts = sandbox.run_all([make(row, emptied(program.code)) for row, program in zip(rows, gold, strict=True)])
        print(f"{name} without bodies: {sum(v.passed for v in verdicts)} of {len(rows)} pass")
        for row, verdict in zip(rows, verdicts, strict=True):
            if verdict.passed:
                print(f"  {row['task_id']} does")


if __name__ == "__main__":
    main()
