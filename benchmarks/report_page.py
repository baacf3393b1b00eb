"""How long a report of 100,000 rows takes, how large its page is, and how fast a browser opens it.

    python benchmarks/report_page.py [--cells 200 --prompts 500]

The rows are made up, with trajectories of 256 positions. Needs a Chromium, and playwright (`pip install -e '.[dev]'`).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTH = 256


def row(rng: random.Random, threshold: float, index: int, length: int) -> dict[str, object]:
    """One prompt, decoded faster and less well the lower the threshold."""
    nfe = max(1, round(length * threshold * rng.uniform(0.3, 0.6)))
    made: dict[str, object] = {
        "index": index,
        "prompt": f"prompt {index}",
        "text": "some text " * 10,
        "correct": rng.random() < threshold,
        "nfe": nfe,
        "tokens": length - 20,
        "reveals": [length // nfe] * nfe,
        "complete": True,
        "ended": "complete",
        "seed": 0,
        "model": "made-up",
        "task": "made-up",
        "split": "test",
        "label": "threshold" if threshold < 0.5 else "factor",
        "policy": {"type": "confidence_threshold", "threshold": threshold},
        "block_length": 32,
        "gen_length": length,
        "suppress_eos": False,
        "draws": False,
        "stop_at_eos": False,
        "versions": {"unmask": "0"},
        "hardware": "none",
        "config": {"task": "made-up"},
    }
    if index < 4:
        at = sorted(rng.randrange(nfe) for _ in range(length))
        made |= {
            "gold": "42",
            "trajectory": {
                "words": [rng.choice((" one", " two", " three", ".")) for _ in range(length)],
                "end": [i > length - 20 for i in range(length)],
                "revealed_at": at,
                "confidence": [round(rng.uniform(0.2, 1), 4) for _ in range(length)],
            },
        }
    return made


def opened(page: Path, times: int) -> list[float]:
    """Milliseconds until the page has loaded, in fresh browsers."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    found = []
    with sync_playwright() as playwright:
        for _ in range(times):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page()
            tab.goto(page.as_uri())
            found.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            browser.close()
    return found


def main() -> None:
    """Make rows, report them, open the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=500)
    args = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for cell in range(args.cells):
                for index in range(args.prompts):
                    file.write(json.dumps(row(rng, (cell + 1) / args.cells, index, LENGTH)) + "\n")
        page = Path(name) / "report.html"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "unmask.cli", "report", str(folder), "-o", str(page)], check=True)
        seconds = time.perf_counter() - start
        loads = opened(page, 5)
        print(
            f"{args.cells * args.prompts:,} rows: report made in {seconds:.1f} s, page of "
            f"{page.stat().st_size / 1e6:.1f} MB, opens in {statistics.median(loads):.0f} ms "
            f"(median of {len(loads)}; {min(loads):.0f} to {max(loads):.0f})"
        )


if __name__ == "__main__":
    main()
