"""The REST API, to be mounted at /api/v1/: its routers, who may call it, how it fails, its OpenAPI document."""

from django.http import HttpRequest
from ninja import Router
from ninja.openapi.docs import Swagger

from portal.api.authentication import BearerToken, BrowserSession
from portal.api.parsing import StrictParser
from portal.api.problems import ErrorsInSentences, NotFound, install
from portal.api.routes import adapters, artifacts, datasets, endpoints, jobs, load_tests, me, models, nodes, plans

api = ErrorsInSentences(
    title="Liftoff",
    version="1",
    description=(
        "Fine-tune, launch and watch models. Send an API token as `Authorization: Bearer lift_…`. Errors come as "
        '`{"errors": [{"field", "value", "message"}]}`, '
        "one sentence each. "
        "Launched models answer at `/v1/chat/completions`."
    ),
    auth=[BearerToken(), BrowserSession()],
    parser=StrictParser(),
    docs=Swagger(),
    openapi_url="/openapi.json",
    docs_url="/docs",
)
install(api)

api.add_router("/jobs", jobs.router)
api.add_router("/jobs", artifacts.router)
api.add_router("/models", models.router)
api.add_router("/datasets", datasets.router)
api.add_router("/adapters", adapters.router)
api.add_router("/nodes", nodes.router)
api.add_router("/plans", plans.router)
api.add_router("/endpoints", endpoints.router)
api.add_router("/load-tests", load_tests.router)
api.add_router("/me", me.router)

rest = Router()


@rest.api_operation(["GET", "POST", "PUT", "PATCH", "DELETE"], "/{path:path}", include_in_schema=False, auth=None)
def nothing_here(request: HttpRequest, path: str) -> None:
    """Any other path below /api/v1/ is answered in the API's shape too."""
    raise NotFound("path", "route", request.path)


api.add_router("", rest)
