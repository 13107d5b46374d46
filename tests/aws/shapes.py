"""A stricter reading of botocore's service models than its own: patterns, lengths, ranges and enumerations too."""

from __future__ import annotations

import re
from typing import Any

from botocore import session, xform_name

from rallytrace.aws.requests import Request

CLASSES = {"L": r"\w", "N": r"\d", "Z": r"\s", "P": "[ -~]"}  # Unicode properties, which re does not know


def problems(request: Request) -> list[str]:
    """What the service would not take of a request; empty for a good one."""
    request.check()
    model = session.get_session().get_service_model(request.service)
    name = next(name for name in model.operation_names if xform_name(name) == request.operation)
    return list(_wrong(request.parameters, model.operation_model(name).input_shape, name))


def _wrong(value: Any, shape: Any, where: str) -> Any:
    rules = shape.metadata
    if shape.type_name == "structure":
        for key, inner in value.items():
            yield from _wrong(inner, shape.members[key], f"{where}.{key}")
    elif shape.type_name == "list":
        for each in value:
            yield from _wrong(each, shape.member, f"{where}[]")
    elif shape.type_name == "map":
        for key, inner in value.items():
            yield from _wrong(key, shape.key, f"{where}.key")
            yield from _wrong(inner, shape.value, f"{where}.{key}")
    elif shape.type_name == "string":
        if getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{where}: {value!r} is none of {shape.enum[:5]}"
        pattern = _pattern(rules.get("pattern", ".*"))
        if not re.match(f"(?:{pattern})$", value, re.DOTALL):
            yield f"{where}: {value!r} does not match {pattern}"
    size = value if isinstance(value, int | float) else len(value)
    if not rules.get("min", 0) <= size <= rules.get("max", size) and not isinstance(value, bool):
        yield f"{where}: {value!r} is not within {rules.get('min')} and {rules.get('max')}"


def _pattern(text: str) -> str:
    """Of Java, for Python; one with surrogates in it, which says "any character", is taken as that."""
    text = re.sub(r"\\p\{([LNZP])\w*\}", lambda kind: CLASSES[kind[1]], text)
    return ".*" if r"\uDBFF" in text else text
