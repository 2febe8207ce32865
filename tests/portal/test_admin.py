"""The admin: every page opens with rows on it, and what is read-only can't be changed."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import ApiToken, AuditEntry
from portal.accounts.services import authenticate, create_token
from portal.catalog.models import ModelProfile
from portal.fleet.models import Accelerator, Link, Node, NodeEvent, PreflightReport, SweepReport
from portal.jobs.models import Attempt, Job, Leadership
from portal.serving.models import Endpoint, LoadTest
from tests.portal.factories import (
    PASSWORD,
    make_adapter,
    make_attempt,
    make_dataset,
    make_job,
    make_model,
    make_node,
    make_user,
)

pytestmark = pytest.mark.django_db

OURS = [model for model in admin.site._registry if model.__module__.startswith("portal.") or model in (User, Group)]


@pytest.fixture
def boss() -> User:
    return make_user("boss", staff=True)


@pytest.fixture
def client(boss: User) -> Client:
    client = Client()
    client.force_login(boss)
    return client


@pytest.fixture
def rows(boss: User) -> None:
    """One of everything."""
    attempt = make_attempt(make_job(boss, kind="launch"), node=make_node("n1", devices=2, labels={"zone": "a"}))
    Endpoint.objects.create(attempt=attempt, url="http://127.0.0.1:9", model_name="m")
    make_adapter(base_model=make_model("m", revision="abc"), dataset=make_dataset())
    make_job(boss, status="failed", reason="out_of_memory")
    create_token(boss, "laptop")
    Group.objects.create(name="team")
    NodeEvent.objects.create(node=attempt.node, text="Reports again, after 5 min.")
    Leadership.objects.create(name="controller", holder="host:1:a", until=timezone.now(), term=1)
    PreflightReport.objects.create(
        node=attempt.node, job_number=1, attempt_number=1, state="warn", took_s=1, at=timezone.now(),
        lines=[{"name": "disk read", "state": "warn", "words": "slow"}],
    )  # fmt: skip
    SweepReport.objects.create(node=attempt.node, job_number=1, attempt_number=1, sweep={}, at=timezone.now())
    LoadTest.objects.create(attempt=attempt, launch=attempt.job, model="m", report={}, at=timezone.now())


def page(model: Any, what: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{what}", args=args)


def test_everything_the_inventory_names_has_a_page() -> None:
    for name in ("fleet.Node", "fleet.Accelerator", "fleet.Link", "fleet.PreflightReport", "fleet.SweepReport",
                 "fleet.NodeEvent",
                 "jobs.Leadership", "catalog.ModelProfile",
                 "catalog.Dataset", "catalog.Adapter", "jobs.Job", "jobs.Attempt", "serving.Endpoint",
                 "accounts.ApiToken", "accounts.AuditEntry"):  # fmt: skip
        assert apps.get_model(name) in OURS


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_lists_and_pages_open_search_and_filter(client: Client, rows: None, model: Any) -> None:
    record = model.objects.first()
    assert record is not None
    answer = client.get(page(model, "changelist"))
    assert answer.status_code == 200
    assert page(model, "change", record.pk) in answer.content.decode()
    assert client.get(page(model, "changelist"), {"q": "1"}).status_code == 200
    assert client.get(page(model, "change", record.pk)).status_code == 200


def test_the_sidebar_names_every_page_the_user_may_see(client: Client, rows: None) -> None:
    content = client.get(reverse("admin:index")).content.decode()
    assert all(page(model, "changelist") in content for model in OURS)


def test_the_list_of_nodes_tells_what_is_free(client: Client, rows: None) -> None:
    make_node("n2", devices=3, online=False, state="draining")
    content = client.get(page(Node, "changelist")).content.decode()
    assert "32.0 GiB" in content
    listed = client.get(page(Node, "changelist"), {"online": "no"}).content.decode()
    assert ">n2<" in listed.replace(" ", "").replace("\n", "")
    assert ">n1<" not in listed.replace(" ", "").replace("\n", "")
    request = client.get(page(Node, "changelist")).wsgi_request  # type: ignore[attr-defined]
    found: Any = admin.site.get_model_admin(Node).get_queryset(request)
    counts = {node.name: (node.device_count, node.held_count) for node in found}
    assert counts == {"n1": (2, 2), "n2": (3, 0)}


def test_nodes_are_drained_and_resumed_and_it_is_written_down(client: Client, rows: None, boss: User) -> None:
    node = Node.objects.get(name="n1")
    for action, state in (("drain", "draining"), ("resume", "active")):
        client.post(page(Node, "changelist"), {"action": action, "_selected_action": [node.pk]})
        node.refresh_from_db()
        assert node.state == state
    assert AuditEntry.objects.filter(user=boss, target="node n1").count() == 2


def inlines() -> dict[str, str]:
    return {f"{name}-{what}_FORMS": "0" for name in ("accelerators", "links") for what in ("TOTAL", "INITIAL")}


def test_only_the_labels_of_a_node_can_be_edited(client: Client, rows: None) -> None:
    node = Node.objects.get(name="n1")
    sent = {"labels": '{"zone": "b"}', "state": "draining", "cores": "99", **inlines()}
    assert client.post(page(Node, "change", node.pk), sent).status_code == 302
    node.refresh_from_db()
    assert (node.labels, node.state, node.cores) == ({"zone": "b"}, "active", 8)
    answer = client.post(page(Node, "change", node.pk), {"labels": '{"zone": 3}', **inlines()})
    assert "object of texts" in answer.content.decode()
    assert client.get(page(Node, "add")).status_code == 403


@pytest.mark.parametrize("model", [Job, Attempt, Accelerator, Link, Endpoint, AuditEntry, ModelProfile])
def test_read_only_pages_refuse_every_change(client: Client, rows: None, model: Any) -> None:
    record = model.objects.first()
    before = model.objects.filter(pk=record.pk).values().get()
    sent = {field.name: "1" for field in model._meta.fields} | {"status": "succeeded", "name": "changed"}
    assert client.get(page(model, "add")).status_code == 403
    assert client.post(page(model, "add"), sent).status_code == 403
    assert client.post(page(model, "change", record.pk), sent).status_code == 403
    assert client.post(page(model, "delete", record.pk), {"post": "yes"}).status_code == 403
    client.post(
        page(model, "changelist"), {"action": "delete_selected", "_selected_action": [record.pk], "post": "yes"}
    )
    assert model.objects.filter(pk=record.pk).values().get() == before


def test_remote_code_is_approved_at_a_revision_and_withdrawn(client: Client, rows: None, boss: User) -> None:
    model, bare = ModelProfile.objects.get(name="m"), make_model("bare")
    choose = {"action": "approve_remote_code", "_selected_action": [model.pk, bare.pk]}
    answer = client.post(page(ModelProfile, "changelist"), choose, follow=True)
    assert "at an exact revision only" in answer.content.decode().replace("\n", " ")
    model.refresh_from_db()
    bare.refresh_from_db()
    assert (model.remote_code_approved, bare.remote_code_approved) == (True, False)
    client.post(page(ModelProfile, "changelist"), {"action": "withdraw_remote_code", "_selected_action": [model.pk]})
    model.refresh_from_db()
    assert not model.remote_code_approved
    assert AuditEntry.objects.filter(user=boss, target="model m").count() == 2


def test_a_token_is_revoked_and_its_digest_never_shown(client: Client, boss: User) -> None:
    token, secret = create_token(boss, "laptop")
    for shown in (page(ApiToken, "changelist"), page(ApiToken, "change", token.pk)):
        content = client.get(shown).content.decode()
        assert token.prefix in content
        assert token.digest not in content
        assert secret not in content
    client.post(page(ApiToken, "changelist"), {"action": "revoke", "_selected_action": [token.pk]})
    assert authenticate(secret) is None


def test_a_viewer_sees_and_does_nothing(rows: None) -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(*Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(viewer)
    node, model = Node.objects.get(name="n1"), ModelProfile.objects.get(name="m")
    assert client.get(page(Node, "change", node.pk)).status_code == 200
    client.post(page(Node, "changelist"), {"action": "drain", "_selected_action": [node.pk]})
    client.post(page(ModelProfile, "changelist"), {"action": "approve_remote_code", "_selected_action": [model.pk]})
    node.refresh_from_db()
    model.refresh_from_db()
    assert (node.state, model.remote_code_approved) == ("active", False)


def test_a_user_is_added_through_the_page(client: Client) -> None:
    sent = {"username": "new", "password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert client.post(reverse("admin:auth_user_add"), sent).status_code == 302
    assert User.objects.get(username="new").check_password(PASSWORD)
