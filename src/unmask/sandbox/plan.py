"""What is known of tests before they run, by reading them."""

from __future__ import annotations

import ast
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
        called: names that are called.
    """

    modules: tuple[str, ...]
    pytest: bool
    imports: bool
    patches: bool
    only_defines: bool
    called: tuple[str, ...]

    @classmethod
    def of(cls, tests: str, setup: str) -> Tests:
        """Of statements; what cannot be read is left to the run itself."""
        modules, functions = list[str](), list[ast.FunctionDef]()
        try:
            with warnings.catch_warnings(action="ignore"):
                trees = [ast.parse(setup), ast.parse(tests)]
        except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
            trees = [ast.Module([], []), ast.Module([], [])]
        for node in (each for tree in trees for each in ast.walk(tree)):
            if isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.append(node.module)
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                functions.append(node)
        nodes = [node for tree in trees for node in ast.walk(tree)]
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        modules += sorted(used & sys.stdlib_module_names - called)
        own = {name for name in modules if name.partition(".")[0] == "solution"}
        fixtures = any(_takes(each) and each.name not in called for each in functions)
        return cls(
            tuple(dict.fromkeys(name for name in modules if name not in own)),
            any(name.partition(".")[0] == "pytest" for name in modules) or fixtures or _sets_up(nodes),
            bool(own),
            any(map(_patches, nodes)),
            all(map(_defines, trees[1].body)),
            tuple(sorted(called)),
        )

    def settings(self) -> dict[str, bool]:
        """For the jail."""
        return {name: value for name, value in asdict(self).items() if name != "modules"}


DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
SET_UP = {f"{do}_{what}" for do in ("setup", "teardown") for what in ("module", "function", "method", "class")}
SET_UP |= {"setUpModule", "tearDownModule"}
PATCHING = {"monkeypatch", "patch", "mock", "Mock", "MagicMock", "setattr"}


def _defines(node: ast.stmt) -> bool:
    """It asks nothing of the code when a module is run: a definition, a text, what only a script does."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    script = isinstance(node, ast.If) and any(
        isinstance(e, ast.Name) and e.id == "__name__" for e in ast.walk(node.test)
    )
    return isinstance(node, DEFINITIONS) or text or script


def _sets_up(nodes: list[ast.AST]) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name in SET_UP for node in nodes)


def _patches(node: ast.AST) -> bool:
    """It replaces something by mock or pytest, or assigns to an attribute of what may be a module."""
    if isinstance(node, ast.Attribute):
        stored = isinstance(node.ctx, ast.Store | ast.Del) and isinstance(node.value, ast.Name)
        return node.attr in PATCHING or (stored and getattr(node.value, "id", "self") != "self")
    return (isinstance(node, ast.Name) and node.id in PATCHING) or (isinstance(node, ast.arg) and node.arg in PATCHING)


def _takes(function: ast.FunctionDef) -> bool:
    """It has a parameter that somebody must give."""
    names = [each.arg for each in function.args.args]
    return len(names) - len(function.args.defaults) > (names[:1] == ["self"])
