"""For the reference: how this project documents, told to griffe, which reads the source without running it.

A setting is documented where it is declared, ``Annotated[type, ..., Field(description=...)]``. An entry of a docstring
may be of several names, ``low, high: the 95% interval``. A class under `unmask.policies.rule` is a dataclass.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): ")


class Docstrings(griffe.Extension):
    """What griffe calls as it reads."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Show an annotated attribute by its type, its `Field`'s description and its bounds in words."""
        if not isinstance(node, ast.AnnAssign) or not _is_annotated(node.annotation):
            return
        assert isinstance(node.annotation, ast.Subscript)
        assert isinstance(node.annotation.slice, ast.Tuple)
        details = node.annotation.slice.elts[1:]
        text = next((found for part in details if (found := _description(part))), None)
        if text is not None and attr.docstring is None:
            bounds = [found for part in details if (found := _bound(part))]
            attr.docstring = griffe.Docstring(" ".join([text, *bounds]), parent=attr)
        plain = _Plain().visit(ast.parse(ast.unparse(node.annotation), mode="eval").body)
        attr.annotation = griffe.get_annotation(plain, parent=attr.parent)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Give a rule the parameters that its fields make."""
        if not any(str(decorator.value) == "rule" for decorator in cls.decorators):
            return
        fields = [a for a in cls.attributes.values() if "instance-attribute" in a.labels and "property" not in a.labels]
        parameters = [
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.positional_or_keyword,
                default=field.value,
            )
            for field in fields
        ]
        self_ = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        made = griffe.Function(
            "__init__",
            parameters=griffe.Parameters(self_, *parameters),
            returns="None",
            lineno=cls.lineno,  # so that the whole rule is shown as its source
            endlineno=cls.endlineno,
        )
        cls.set_member("__init__", made)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Part what a docstring says of several names."""
        if obj.docstring is not None:
            obj.docstring.value = parted(obj.docstring.value)


def parted(docstring: str) -> str:
    """Each entry of several names once for each of them."""
    lines, made = docstring.splitlines(), []
    while lines:
        found = SHARED.match(lines[0])
        if found is None:
            made.append(lines.pop(0))
            continue
        indent, rest = found[1], [lines.pop(0)[found.end() :]]
        while lines and lines[0].startswith(indent + " "):
            rest.append(lines.pop(0))
        for name in found[2].split(", "):
            made += [f"{indent}{name}: {rest[0]}", *rest[1:]]
    return "\n".join(made)


class _Plain(ast.NodeTransformer):
    """``Annotated[type, ...]`` as the type."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        return node.slice.elts[0] if _is_annotated(node) and isinstance(node.slice, ast.Tuple) else node


def _is_annotated(node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated"


def _description(part: ast.expr) -> str | None:
    if not isinstance(part, ast.Call) or not isinstance(part.func, ast.Name) or part.func.id != "Field":
        return None
    value = next((keyword.value for keyword in part.keywords if keyword.arg == "description"), None)
    return ast.literal_eval(value) if value is not None else None


def _bound(part: ast.expr) -> str | None:
    words = {"Ge": "At least", "Gt": "Above", "Le": "At most", "Lt": "Below"}
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in words and part.args:
        return f"{words[part.func.id]} {ast.unparse(part.args[0])}."
    return None
