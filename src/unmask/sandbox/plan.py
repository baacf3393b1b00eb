"""What is known of tests before they run, by reading them."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Tests:
    """What is known of tests before the code is loaded.

    Attributes:
        modules: that they import.
        pytest: they import it, or take fixtures.
        imports: they import the code as a module.
        patches: they replace parts of modules themselves, so that modules must be those of the code.
        only_defines: nothing stands outside functions and classes.
    """

    modules: tuple[str, ...]
    pytest: bool
    imports: bool
    patches: bool
    only_defines: bool

    @classmethod
    def of(cls, tests: str, setup: str) -> Tests:
        """Of statements; what cannot be read is left to the run itself."""
        modules, functions = list[str](), list[ast.FunctionDef]()
        try:
            with warnings.catch_warnings(action="ignore"):
                trees = [ast.parse(setup), ast.parse(tests)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            trees = [ast.Module([], []), ast.Module([], [])]
        for node in (each for tree in trees for each in ast.walk(tree)):
            if isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.append(node.module)
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                functions.append(node)
        used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules += sorted(used & sys.stdlib_module_names)
        own = {name for name in modules if name.partition(".")[0] == "solution"}
        return cls(
            tuple(dict.fromkeys(name for name in modules if name not in own)),
            any(name.partition(".")[0] == "pytest" for name in modules) or any(map(_takes, functions)),
            bool(own),
            re.search(r"\b(?:monkeypatch|patch|mock)\b", tests) is not None,
            all(isinstance(node, DEFINITIONS) for node in trees[1].body),
        )

    def settings(self) -> dict[str, bool]:
        """For the jail."""
        return {name: value for name, value in asdict(self).items() if name != "modules"}


DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)


def _takes(function: ast.FunctionDef) -> bool:
    """It has a parameter that somebody must give."""
    names = [each.arg for each in function.args.args]
    return len(names) - len(function.args.defaults) > (names[:1] == ["self"])
