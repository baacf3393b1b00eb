"""What the documentation site needs from outside docs/: log, changelog, rules, and links that leave the folder."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"log.md": "LOG.md", "changelog.md": "CHANGELOG.md"}
WRITTEN_BY_A_COMMAND = "reproduction.md"
MADE = re.compile(r"^<!-- made: ([\w ]+) -->$", re.M)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?:examples|src)/[^)]*\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what a command writes, until it has."""
    if not (Path(config.docs_dir) / WRITTEN_BY_A_COMMAND).exists():
        config.nav = [entry for entry in config.nav or [] if WRITTEN_BY_A_COMMAND not in _values(entry)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Show the log and the changelog, whose links start from the root, as pages."""
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is made from the code; name source files instead of linking to them: the site does not hold them."""
    markdown = MADE.sub(lambda mark: _made(mark[1]), markdown)
    return OUTSIDE.sub(lambda link: link[1] if link[1].startswith("`") else f"`{link[1]}`", markdown)


def _made(name: str) -> str:
    """What stands for ``<!-- made: name -->`` in a page: of every rule or wrapper that the package has."""
    from unmask.policies import Rule, Wrapper, policy_types

    kinds = [kind for kind in policy_types().values() if issubclass(kind, Rule)]
    wrappers = [kind for kind in kinds if issubclass(kind, Wrapper)]
    rules = [kind for kind in kinds if kind not in wrappers]
    return {
        "table of rules": lambda: _table(rules),
        "rules": lambda: _reference(rules),
        "wrappers": lambda: _reference(wrappers),
    }[name]()


def _table(rules: list[Any]) -> str:
    """A line for each rule, from its file: its fields, its family, its docstring's first sentences, its source."""
    lines = ["| type and settings | in plots | at each step, in each row | source |", "|---|---|---|---|"]
    for rule in rules:
        settings = ",".join(field.name for field in dataclasses.fields(rule))
        does = " ".join(inspect.getdoc(rule).split("\n\n")[0].split())
        source = inspect.getdoc(sys.modules[rule.__module__]).split("\n")[0].rstrip(".")
        cells = (f"`{rule.type_name}:{settings}`", rule.family(), does, source)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _reference(kinds: list[Any]) -> str:
    """An entry for each class."""
    options = "    options: { heading_level: 3, members: false, show_root_full_path: false }"
    return "\n\n".join(f"::: {kind.__module__}.{kind.__qualname__}\n{options}" for kind in kinds)


def _values(entry: Any) -> list[Any]:
    return list(entry.values()) if isinstance(entry, dict) else [entry]
