"""What the documentation site needs from outside docs/: the log, the changelog, links that leave the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"log.md": "LOG.md", "changelog.md": "CHANGELOG.md"}
WRITTEN_BY_A_COMMAND = "reproduction.md"
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
    """Name source files instead of linking to them: the site does not hold them."""
    return OUTSIDE.sub(lambda link: link[1] if link[1].startswith("`") else f"`{link[1]}`", markdown)


def _values(entry: Any) -> list[Any]:
    return list(entry.values()) if isinstance(entry, dict) else [entry]
