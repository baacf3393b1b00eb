"""For the reference: what griffe, which reads the source without running it, cannot know of this project's classes.

A setting is documented where it is declared, ``Annotated[type, ..., Field(description=...)]``. A class under
`unmask.policies.rule` is a dataclass.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe

BOUNDS = {"Ge": "At least", "Gt": "Above", "Le": "At most", "Lt": "Below"}


class Docstrings(griffe.Extension):
    """What griffe calls as it reads."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Show an annotated attribute by its type, its `Field`'s description and its bounds in words."""
        annotation = getattr(node, "annotation", None)
        if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Annotated":
            return
        assert isinstance(annotation.slice, ast.Tuple)
        kind, *details = annotation.slice.elts
        attr.annotation = griffe.get_annotation(kind, parent=attr.parent)
        calls = [part for part in details if isinstance(part, ast.Call)]
        text = next((found for call in calls if (found := _description(call))), None)
        if text is not None and attr.docstring is None:
            bounds = [f"{BOUNDS[_name(call)]} {ast.unparse(call.args[0])}." for call in calls if _name(call) in BOUNDS]
            attr.docstring = griffe.Docstring(" ".join([text, *bounds]), parent=attr)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Give a rule the parameters that its fields make."""
        if not any(str(decorator.value) == "rule" for decorator in cls.decorators):
            return
        kind = griffe.ParameterKind.positional_or_keyword
        fields = [a for a in cls.attributes.values() if "instance-attribute" in a.labels and "property" not in a.labels]
        parameters = [griffe.Parameter(f.name, annotation=f.annotation, kind=kind, default=f.value) for f in fields]
        made = griffe.Function(
            "__init__",
            parameters=griffe.Parameters(griffe.Parameter("self", kind=kind), *parameters),
            returns="None",
            lineno=cls.lineno,  # so that the whole rule is shown as its source
            endlineno=cls.endlineno,
        )
        cls.set_member("__init__", made)


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def _description(call: ast.Call) -> str | None:
    """The text of ``Field(description="...")``; None where it is not written out."""
    if _name(call) != "Field":
        return None
    text = next((keyword.value for keyword in call.keywords if keyword.arg == "description"), None)
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
