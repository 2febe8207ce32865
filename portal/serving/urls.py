"""The OpenAI-compatible API, to be included at /v1/."""

from django.urls import path, re_path

from portal.serving import gateway

urlpatterns = [
    path("models", gateway.models, name="gateway-models"),
    path("models/<path:name>", gateway.model, name="gateway-model"),
    path("chat/completions", gateway.chat_completions, name="gateway-chat"),
    path("completions", gateway.completions, name="gateway-completions"),
    path("embeddings", gateway.embeddings, name="gateway-embeddings"),
    re_path(r"", gateway.nothing_here),
]
