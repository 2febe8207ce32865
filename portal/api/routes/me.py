"""/me: who the token or session belongs to."""

from typing import Any

from django.http import HttpRequest
from ninja import Router, Schema

from portal.api.authentication import user_of
from portal.api.problems import CODES

router = Router(tags=["me"])


class Me(Schema):
    """The caller."""

    username: str
    email: str
    staff: bool


@router.get("", response={200: Me, **CODES}, summary="The caller")
def me(request: HttpRequest) -> dict[str, Any]:
    user = user_of(request)
    return {"username": user.get_username(), "email": user.email, "staff": user.is_staff}
