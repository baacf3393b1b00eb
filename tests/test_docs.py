"""What README and docs say can be done: Python blocks run, command lines parse, links and references lead somewhere.

A comment in front of a block says what is not run (``<!-- not run: why -->``), which commands are not checked
(``<!-- not checked: why -->``), that it is a file the blocks behind it need (``<!-- file: name -->``) or that runs and
is a file of `unmask.policies` for them (``<!-- policy: name -->``), or that its commands run with --dry-run, if they
have it (``<!-- dry run -->``).
"""

import os
import re
import shlex
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import pytest
from cyclopts import CycloptsError
from pydantic import ValidationError

from unmask import policies
from unmask.cli.main import app, main
from unmask.policies.registry import policy_types

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUN = [DOCS / "index.md", *sorted(DOCS.glob("howto/*.md"))]
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Commands that pages may name before they exist; empty it when they do.
# Made when the site is built, or by a command.
MADE = {"log.md", "changelog.md", "reproduction.md"}
LARGEST_PICTURE = 200_000

BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(unmask [^`]+)`")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")


def name(page):
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    line: int
    mark: str
    language: str
    body: str


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("body")) + 1
        yield Block(line, found["mark"] or "", found["language"], found["body"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder whose files can be imported, as modules and as policies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - modules:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]
    policy_types.cache_clear()


@pytest.mark.parametrize("page", RUN, ids=name)
def test_python_blocks_run_in_order(page, folder, monkeypatch):
    namespace = {"__name__": "docs_page"}
    for block in blocks(page):
        kind, _, file = block.mark.partition(": ")
        if kind == "policy":
            (folder / "policies").mkdir()
            (folder / "policies" / file).write_text(block.body)
            monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(folder / "policies")])
            policy_types.cache_clear()
        if kind == "file":
            Path(file).write_text(block.body)
        elif kind == "dry run":
            for _, argv in calls(block):
                if "--dry-run" in flags_of(argv[0]):
                    main([*argv, "--dry-run"])
        elif block.language == "python" and kind != "not run":
            code = "\n" * (block.line - 1) + block.body
            exec(compile(code, str(page), "exec"), namespace)


def argv_of(text):
    """What `unmask` gets in a line of a shell; the parts of a pipe one by one."""
    shell = shlex.shlex(text, posix=True, punctuation_chars="|>")
    shell.whitespace_split = True
    parts = [[]]
    for word in shell:
        parts = [*parts, []] if word == "|" else [*parts[:-1], [*parts[-1], word]]
    for words in parts:
        argv = words[: words.index(">")] if ">" in words else words
        while argv and re.fullmatch(r"\w+=\S*", argv[0]):
            argv = argv[1:]
        if argv[:1] == ["unmask"]:
            yield argv[1:]
        elif argv[:2] == ["accelerate", "launch"] and "unmask.cli" in argv:
            yield argv[argv.index("unmask.cli") + 1 :]


def calls(block):
    """Line and arguments of each call of `unmask` in a block."""
    joined = block.body.replace("\\\n", " \0")
    line = block.line
    for text in joined.splitlines():
        if "unmask" in text:
            yield from ((line, argv) for argv in argv_of(text.replace("\0", "")))
        line += 1 + text.count("\0")


def commands(page):
    """Line and arguments of each call of `unmask` in a page's blocks."""
    for block in blocks(page):
        if block.language in ("", "bash", "console") and not block.mark.startswith("not checked: "):
            yield from calls(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_command_lines_parse(page):
    for line, argv in commands(page):
        try:
            app.parse_args(argv, exit_on_error=False, print_error=False)
        except (CycloptsError, ValidationError) as e:
            pytest.fail(f"{name(page)}:{line}: unmask {' '.join(argv)}\n{e}")
        for word in argv:
            assert not word.startswith("configs/") or (ROOT / word).exists(), f"{name(page)}:{line}: {word}"


def flags_of(command):
    return {flag for argument in app[command].assemble_argument_collection() for flag in argument.names} | {"--help"}


def check_flags(page, command, text):
    assert command in app, f"{name(page)}: unmask {command}"
    unknown = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)) - flags_of(command)
    assert not unknown, f"{name(page)}: unmask {command} has no {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_sentences_exist(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for mention in INLINE.findall(prose):
        words = mention.split()
        if not words[1].startswith("-") and words[1].islower():
            check_flags(page, words[1], mention)


def test_the_table_of_commands_is_whole():
    page = DOCS / "cli.md"
    rows = re.findall(r"^\| `unmask ([\w-]+)` \|(.*)$", page.read_text(encoding="utf-8"), re.M)
    for command, row in rows:
        check_flags(page, command, row)
    assert {command for command in app if not command.startswith("-")} <= {command for command, _ in rows}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    for target in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path = page.parent / target
        assert path.exists() or path.name in MADE, f"{name(page)}: {target}"


def test_pictures_are_small():
    assert all(path.stat().st_size < LARGEST_PICTURE for path in (DOCS / "images").iterdir())


@pytest.mark.parametrize("page", sorted(DOCS.glob("reference/*.md")), ids=name)
def test_references_exist(page):
    for target in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
        try:
            resolve_name(target)
        except (ImportError, AttributeError) as e:
            pytest.fail(f"{name(page)}: {target}: {e}")


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(re.findall(r": (\S+\.md)$", navigation, re.M)) - MADE == pages - MADE
    assert os.path.commonpath([DOCS, *PAGES[1:]]) == str(DOCS)
