"""`unmask sweep`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt
from cyclopts import Parameter
from pydantic import Field
from rich.table import Table

from unmask.cli.common import ConfigFile, DryRun, draw
from unmask.cli.comparison import ComparisonConfig, compare, plan, verifiable
from unmask.cli.console import console, duration
from unmask.evaluation.cells import Cell, Contestant, Region, RuleGrid, clone_of, tuned
from unmask.evaluation.comparison import replay
from unmask.evaluation.evaluate import Row
from unmask.evaluation.findings import Beside
from unmask.evaluation.gather import beside
from unmask.evaluation.pareto import Difference
from unmask.evaluation.summaries import Summary, frontier, summarise
from unmask.evaluation.tables import blocks, setting, table
from unmask.settings import load_settings


class SweepConfig(ComparisonConfig):
    """Rules over grids of settings and block lengths, learned policies and their controls."""

    output: Annotated[str, Field(description="Folder for rows.jsonl, plot.png and plot.svg.")] = "runs/sweep"
    rules: Annotated[
        tuple[RuleGrid, ...],
        Parameter(parse=False),
        Field(description="Grids of rules, in the TOML file."),
    ] = ()
    heuristics: Annotated[
        bool | None, Field(description="Every rule over its tuned grid (default: where the TOML file has no rules).")
    ] = None
    temperatures: Annotated[
        tuple[Annotated[float, Gt(0)], ...], Field(description="Of each learned policy's logits (arXiv 2512.09106).")
    ] = ()
    betas: Annotated[
        tuple[Annotated[float, Gt(0)], ...], Field(description="Factors of each learned policy's probabilities.")
    ] = ()
    controls: Annotated[
        bool,
        Field(description="Beside each learned policy the clone it began as, and a replay of its average pace."),
    ] = True

    def contestants(self, gen_length: int) -> list[Contestant]:
        """All cells, by block length.

        Raises:
            UnmaskError: an unknown policy, rule or setting, with the nearest name; a block length that does not divide.
        """
        lengths = self.block_lengths or [gen_length // n for n in (1, 2, 4, 8) if gen_length % n == 0]
        common = self.regions(gen_length, lengths)
        own = [(grid, self.regions(gen_length, grid.block_lengths) or common) for grid in self.rules]
        made: list[Contestant] = []
        for region in dict.fromkeys([*common, *(region for _, regions in own for region in regions)]):
            if region in common:
                made += self._everywhere(region)
            made += [one for grid, regions in own if region in regions for one in grid.contestants(region)]
        return list({cell.key: (cell, policy) for cell, policy in made}.values())

    def _everywhere(self, region: Region) -> list[Contestant]:
        """The named policies with their knobs and clones, and all rules."""
        made = []
        for name in self.policies:
            plain = region.contestant(name)
            made.append(plain)
            if plain[0].learned:
                made += [region.contestant(f"{name} | temperature:tau={tau:g}") for tau in self.temperatures]
                made += [region.contestant(f"{name} | beta_scaling:beta={beta:g}") for beta in self.betas]
                clone = clone_of(name, plain[0], region) if self.controls else None
                made += [clone] if clone else []
        if self.heuristics or (self.heuristics is None and not self.rules):
            made += tuned(region)
        return made


def sweep(
    *,
    settings: Annotated[SweepConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """Every rule over its whole grid, with learned policies and their controls: each at its best.

    Example: unmask sweep --policies house-base-full --prompts 500 --output runs/sweep
    """
    resolved = load_settings(SweepConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    task = verifiable(resolved)
    gen_length = resolved.gen_length or task.gen_length
    contestants = resolved.contestants(gen_length)
    if dry_run:
        plan(contestants, resolved.prompts, task)
        return

    def control(cell: Cell, rows: list[Row]) -> Contestant | None:
        # Of a row that ends at its EOS the rest of the pace is not known.
        wanted = resolved.controls and cell.label == "policy" and not cell.stop_at_eos
        return replay(cell, rows) if wanted else None

    started = time.perf_counter()
    found = compare(resolved, task, gen_length, contestants, resume=resume, then=control)
    if found is None:
        return
    summaries = [summarise(cell, rows) for cell, rows in found.cells]
    rules = dict.fromkeys(s.cell.label for s in summaries)
    best = [s for rule in rules for s in frontier([s for s in summaries if s.cell.label == rule])]
    console.print(table(best, f"{found.title}: each rule's frontier over its whole grid ({len(summaries)} cells)"))
    if any(cell.label == "policy" for cell, _ in found.cells) and summaries[0].prompts > 1:
        console.print(differences(summaries, beside(found.cells, summaries)))
    took = duration(time.perf_counter() - started)
    console.print(f"{took}. {draw(summaries, found.folder / 'plot', found.title)} Rows: {found.folder / 'rows.jsonl'}.")
    console.print(f"The whole picture: unmask report {found.folder} -o report.html", highlight=False)


def differences(summaries: Sequence[Summary], found: Sequence[Beside]) -> Table:
    """Learned policies beside every rule at the policy's own NFE."""
    grid = Table(title="Learned policies beside each rule at equal NFE: points of accuracy", title_justify="left")
    for name in ("policy", "blocks", "NFE", "rule", "difference", "95% interval"):
        grid.add_column(name, justify="left" if name in ("policy", "rule") else "right")
    for one in found:
        policy = summaries[one.cell]
        place = (setting(policy.cell), blocks(policy.cell), f"{policy.nfe.mean:.1f}")
        grid.add_row(*place, one.rule, *points(one.difference))
    return grid


def points(difference: Difference) -> tuple[str, str]:
    """A difference in percent points and its interval; ``none so fast`` where the rule has no cell at that NFE."""
    if math.isnan(difference.mean):
        return "none so fast", ""
    return f"{100 * difference.mean:+.1f}", f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
