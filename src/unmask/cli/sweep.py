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
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.evaluation.differences import Difference
from unmask.evaluation.entries import Candidate, RuleGrid, candidate, clone_of, tuned
from unmask.evaluation.findings import Versus
from unmask.evaluation.gather import versus
from unmask.evaluation.summaries import Summary, costed, frontier, summarise
from unmask.evaluation.tables import blocks, setting, table
from unmask.settings import Output, load_settings


class SweepConfig(ComparisonConfig):
    """Rules over grids of settings and block lengths, learned policies and their controls."""

    output: Annotated[Output, Field(description="Folder for rows.jsonl, plot.png and plot.svg.")] = "runs/sweep"
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
        Field(description="For each learned policy the clone it began as, and a replay of its average pace."),
    ] = True

    def candidates(self, gen_length: int) -> list[Candidate]:
        """All entries, by block length.

        Raises:
            UnmaskError: an unknown policy, rule or setting, with the nearest name; a block length that does not divide.
        """
        longest = self.usual_blocks(gen_length)
        lengths = self.block_lengths or [longest // n for n in (1, 2, 4, 8) if longest % n == 0]
        common = self.decodings(gen_length, lengths)
        own = [(grid, self.decodings(gen_length, grid.block_lengths) or common) for grid in self.rules]
        made: list[Candidate] = []
        for decode in dict.fromkeys([*common, *(decode for _, decodings in own for decode in decodings)]):
            if decode in common:
                made += self._everywhere(decode)
            made += [one for grid, decodings in own if decode in decodings for one in grid.candidates(decode)]
        return list({entry.key: (entry, policy) for entry, policy in self.at_speeds(made)}.values())

    def _everywhere(self, decode: DecodeConfig) -> list[Candidate]:
        """The named policies with their knobs and clones, and all rules."""
        made = []
        for name in self.policies:
            plain = candidate(name, decode)
            made.append(plain)
            if plain[0].kind == "policy":
                made += [candidate(f"{name} | temperature:tau={tau:g}", decode) for tau in self.temperatures]
                made += [candidate(f"{name} | beta_scaling:beta={beta:g}", decode) for beta in self.betas]
                clone = clone_of(name, plain[0]) if self.controls else None
                made += [clone] if clone else []
        if self.heuristics or (self.heuristics is None and not self.rules):
            made += tuned(decode)
        return made


def sweep(
    *,
    settings: Annotated[SweepConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """Every rule over its whole grid, with learned policies and their controls: each at its best."""
    resolved = load_settings(SweepConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    task = verifiable(resolved)
    gen_length = task.region(resolved.gen_length)
    candidates = resolved.candidates(gen_length)
    if not candidates:
        raise UnmaskError("Nothing to sweep: give --policies, rules with settings, or leave out --no-heuristics.")
    if dry_run:
        plan(resolved, candidates, task)
        return
    started = time.perf_counter()
    found = compare(resolved, task, gen_length, candidates, resume=resume, controls=resolved.controls)
    if found is None:
        return
    results = costed(found.results, resolved.cost)
    summaries = [summarise(entry, rows, resolved.cost) for entry, rows in results]
    families = dict.fromkeys(s.entry.label for s in summaries)
    best = [s for family in families for s in frontier([s for s in summaries if s.entry.label == family])]
    title = f"{found.title}: each rule's frontier over its whole grid ({len(summaries)} entries)"
    console.print(table(best, title, found.bounds))
    if any(s.entry.kind == "policy" for s in summaries) and summaries[0].prompts > 1:
        console.print(differences(summaries, versus(results, summaries)))
    took = duration(time.perf_counter() - started)
    console.print(f"{took}. {draw(summaries, found.folder / 'plot', found.title)} Rows: {found.folder / 'rows.jsonl'}.")
    console.print(f"The whole picture: unmask report {found.folder} -o report.html", highlight=False)


def differences(summaries: Sequence[Summary], found: Sequence[Versus]) -> Table:
    """Learned policies against every rule at the policy's own NFE."""
    grid = Table(title="Learned policies against each rule at equal NFE: points of accuracy", title_justify="left")
    for name in ("policy", "blocks", "NFE", "rule", "difference", "95% interval"):
        grid.add_column(name, justify="left" if name in ("policy", "rule") else "right")
    for one in found:
        policy = summaries[one.cell]
        shown = (setting(policy.entry), blocks(policy.entry), f"{policy.nfe.mean:.1f}")
        grid.add_row(*shown, one.rule, *points(one.difference))
    return grid


def points(difference: Difference) -> tuple[str, str]:
    """A difference in percent points and its interval; ``none so fast`` where the rule has no cell at that NFE."""
    if math.isnan(difference.mean):
        return "none so fast", ""
    return f"{100 * difference.mean:+.1f}", f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
