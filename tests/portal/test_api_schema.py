"""Requests generated from the OpenAPI document: no answer is a server error, and each is one the document promises."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from portal.accounts.services import create_token
from portal.api.router import api
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node, make_user

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KNOWN = {"id": 10**9, "attempt": 1, "name": "x"}
ROUTES = [
    (method, path)
    for path, methods in sorted(api.get_openapi_schema(path_prefix="/api/v1/")["paths"].items())
    for method in sorted(methods)
]


@pytest.fixture
def one_connection() -> Iterator[None]:
    """A request leaves the connection, with the test's transaction on it, open; as Django's own test client does."""
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    yield
    request_started.connect(close_old_connections)
    request_finished.connect(close_old_connections)


@pytest.fixture
def document(db: None, one_connection: None) -> Any:
    """The API with one of everything in it, named KNOWN."""
    make_model("x")
    make_dataset("x")
    make_adapter("x")
    make_attempt(make_job(pk=KNOWN["id"]), node=make_node("x"))
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application())


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: str(value))
def test_every_answer_is_one_that_the_document_promises(document: Any, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {create_token(make_user(staff=True), 'fuzz')[1]}"}

    operation = document[path][method]
    cases = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(cases), known=st.booleans())
    def holds(case: Any, known: bool) -> None:
        if known:
            case.path_parameters = {name: KNOWN[name] for name in case.path_parameters or {}}
        case.call_and_validate(headers=headers, checks=CHECKS)

    holds()
