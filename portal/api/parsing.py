"""Reads bodies and query strings, and refuses text that no database column holds. Knows no route."""

import json
from typing import Any, TypeVar

from django.http import HttpRequest
from django.utils.datastructures import MultiValueDict
from ninja.parser import Parser
from pydantic import BaseModel, ValidationError

from portal.api.problems import sentences
from workers.contract.errors import Refused

Shape = TypeVar("Shape", bound=BaseModel)


class StrictParser(Parser):
    """JSON as the standard has it (no NaN), text that can be stored."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        """The body. Raises Refused."""
        return read_json(request)

    def parse_querydict(
        self, data: "MultiValueDict[str, Any]", list_fields: list[str], request: HttpRequest
    ) -> dict[str, Any]:
        """The query string. Raises Refused."""
        found = super().parse_querydict(data, list_fields, request)
        storable(found)
        return found


def read_json(request: HttpRequest) -> dict[str, Any]:
    """The request's JSON object. Raises Refused."""
    try:
        body = json.loads(request.body, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise Refused.at("body", None, f"body: this is not JSON ({where}); send one JSON object.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused.at("body", None, "body: this is no JSON that can be read; send one JSON object.") from None
    if not isinstance(body, dict):
        raise Refused.at("body", body, "body: this is not an object with named fields; send one JSON object.")
    storable(body)
    return body


def storable(value: Any, field: str = "") -> None:
    """Raises Refused at the first text with a NUL or half a surrogate pair; databases and UTF-8 hold neither."""
    if isinstance(value, dict):
        for key, item in value.items():
            storable(key, field)
            storable(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            storable(item, f"{field}.{index}" if field else str(index))
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        shown = ascii(field)[1:-1] or "body"
        raise Refused.at(shown, ascii(value), f"{shown}: {ascii(value)[:60]} holds characters that are no text.")


def validated(shape: type[Shape], values: dict[str, Any]) -> Shape:
    """`values` as `shape`. Raises Refused."""
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        raise Refused(sentences(error)) from None


def _no_constant(name: str) -> None:
    raise Refused.at("body", name, f"body: {name} is no JSON number; send a finite one.")
