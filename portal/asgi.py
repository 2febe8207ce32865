"""The ASGI application: Django over HTTP, Channels over websockets (own origin and signed-in users only)."""

import os

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.db import connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup(set_prefix=False)

from portal.body_limit import BodyLimit  # noqa: E402
from portal.live.routing import websocket_urlpatterns  # noqa: E402 - needs Django set up
from portal.serving.straight import Handler  # noqa: E402

# Under ASGI each request has a thread of its own; a connection kept for the next one would only pile up.
for alias in connections:
    connections.settings[alias]["CONN_MAX_AGE"] = 0

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(Handler(), settings.LIFTOFF_UPLOAD_LIMIT + 2**20),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
    }
)
