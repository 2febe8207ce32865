"""The admin's sidebar: which pages, in which groups. A user sees what their permissions let them view."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

# Group → {app.model: (title, icon)}
PAGES = {
    "Cluster": {
        "fleet.node": ("Nodes", "dns"),
        "fleet.accelerator": ("Accelerators", "memory"),
        "fleet.link": ("Links", "cable"),
        "fleet.preflightreport": ("Preflights", "fact_check"),
        "fleet.sweepreport": ("All-reduce sweeps", "speed"),
        "fleet.nodeevent": ("Node events", "history_toggle_off"),
    },
    "Catalog": {
        "catalog.modelprofile": ("Models", "neurology"),
        "catalog.dataset": ("Datasets", "dataset"),
        "catalog.adapter": ("Adapters", "extension"),
    },
    "Work": {
        "jobs.job": ("Jobs", "rocket_launch"),
        "jobs.attempt": ("Attempts", "replay"),
        "jobs.leadership": ("Controllers", "military_tech"),
        "serving.endpoint": ("Endpoints", "chat"),
        "serving.loadtest": ("Load tests", "speed"),
    },
    "Access": {
        "auth.user": ("Users", "person"),
        "auth.group": ("Groups", "group"),
        "accounts.apitoken": ("API tokens", "key"),
        "accounts.auditentry": ("Audit log", "history"),
        "axes.accessattempt": ("Failed sign-ins", "lock"),
    },
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold's navigation for this user."""
    groups = []
    for title, pages in PAGES.items():
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{page.replace('.', '_')}_changelist")}
            for page, (name, icon) in pages.items()
            if request.user.has_perm(f"{page.replace('.', '.view_')}")
        ]
        if items:
            groups.append({"title": title, "separator": True, "items": items})
    return groups
