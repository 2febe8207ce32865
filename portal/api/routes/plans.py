"""/plans: what would it take. Knows nothing of how a plan is made; stores nothing."""

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Body, Router, Schema
from pydantic import Field

from portal.api.problems import BODY_CODES, CODES
from portal.jobs import planning
from portal.planner.answer import PlanAnswer
from portal.planner.request import PlanRequest
from workers.contract.errors import Refused

router = Router(tags=["plans"])

MAX_BODY = 2**20
"""Bytes. The longest published config.json, with a class name for every output, stays far below."""


class PlanIn(PlanRequest):
    """A question to the planner. `hardware` defaults to the whole fleet."""

    config: dict[str, Any] | None = Field(
        None, description="A config.json, planned instead of the model named; `model` is then only what to call it."
    )


class Names(Schema):
    """What a plan can name."""

    models: list[str] = Field(description="Model profiles, then built-in models.")
    hardware: list[str] = Field(
        description="'fleet', the nodes, then built-in hardware; also 4xl4 or 2x8-a100-80-25gbe, after the pattern."
    )


@router.post("", response={200: PlanAnswer, **BODY_CODES}, summary="Plan: will it fit, how fast, and why")
def make_plan(request: HttpRequest, body: Annotated[PlanIn, Body()]) -> PlanAnswer:
    """Ranked plans, each with its bytes line by line; what doesn't fit is an answer too, with what to change."""
    if len(request.body) > MAX_BODY:
        raise Refused.at(
            "body", None, f"body: {len(request.body):,} bytes are too many for a plan; send at most {MAX_BODY:,}."
        )
    return planning.answer(body, body.config)


@router.get("/names", response={200: Names, **CODES}, summary="The models and hardware a plan can name")
def names(request: HttpRequest) -> dict[str, list[str]]:
    return {"models": planning.model_names(), "hardware": planning.hardware_names()}
