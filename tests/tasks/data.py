"""Rows of data sets: the samples in tests/data, and the whole ones where `UNMASK_TEST_DATA` says they are."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "data"
WHOLE = Path(os.environ.get("UNMASK_TEST_DATA") or "unset")
FILES = tuple(f"{path.stem}.jsonl" for path in sorted(SAMPLES.glob("*.jsonl")))
whole = pytest.mark.skipif(
    "UNMASK_TEST_DATA" not in os.environ, reason=f"set UNMASK_TEST_DATA to a folder with {', '.join(FILES)}"
)
folders = pytest.mark.parametrize(
    "folder", [pytest.param(SAMPLES, id="sample"), pytest.param(WHOLE, id="whole", marks=whole)]
)
has_math_verify = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="no math-verify")


def rows(folder, name):
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
