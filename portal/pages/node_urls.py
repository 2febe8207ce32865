"""Pages of the nodes."""

from django.urls import path

from portal.pages import node_views

urlpatterns = [
    path("nodes/", node_views.node_list, name="nodes"),
    path("nodes/<str:name>/", node_views.node_page, name="node"),
    path("nodes/<str:name>/preflight/", node_views.node_preflight, name="node-preflight"),
    path("nodes/<str:name>/sweep/", node_views.node_sweep, name="node-sweep"),
    path("nodes/<str:name>/state/", node_views.node_state, name="node-state"),
]
