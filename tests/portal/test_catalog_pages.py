"""Pages of models, datasets, adapters, nodes and tokens: empty, filled and refused; and who may see or do what."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from portal.accounts.models import ApiToken
from portal.accounts.services import authenticate, create_token
from portal.catalog.charts import histogram
from portal.catalog.models import Dataset, ModelProfile
from portal.fleet.models import Node
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
from tests.portal.test_catalog import model_folder

pytestmark = pytest.mark.django_db

LISTS = ("models", "datasets", "adapters", "nodes", "tokens", "model-new", "dataset-new")
GOOD = "".join(json.dumps({"text": f"ticket {n}", "label": "ab"[n % 2]}) + "\n" for n in range(10))
DATASET: dict[str, Any] = {
    "name": "tickets", "format": "auto", "uri": "", "test_uri": "", "test_fraction": "0.2", "seed": "42",
}  # fmt: skip
MODEL = {"name": "tiny", "source": "safetensors", "uri": "", "revision": "", "licence": "mit"}

Fetch = Callable[[str], str]


@pytest.fixture
def browser() -> Client:
    """A signed-in browser whose user is no staff; it raises where a page breaks."""
    client = Client()
    client.force_login(make_user("ada"))
    return client


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(make_user("boss", staff=True))
    return client


def text(answer: Any, status: int = 200) -> str:
    assert answer.status_code == status
    body: str = answer.content.decode()
    return body


def upload(content: str | bytes, name: str = "rows.jsonl") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content.encode() if isinstance(content, str) else content)


def post(client: Client, name: str, /, **fields: Any) -> HttpResponse:
    answer: HttpResponse = client.post(reverse(name), fields)  # type: ignore[assignment]
    return answer


@pytest.mark.parametrize("name", LISTS)
def test_every_page_opens_on_an_empty_database(browser: Client, name: str) -> None:
    text(browser.get(reverse(name)))


@pytest.mark.parametrize(
    ("name", "arguments"), [*((name, []) for name in LISTS), ("model", ["m"]), ("dataset", ["d"]), ("node", ["n"])]
)
def test_every_page_wants_a_login(client: Client, name: str, arguments: list[str]) -> None:
    url = reverse(name, args=arguments)
    answer = client.get(url)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/login/?next={url}")


@pytest.mark.parametrize(
    ("name", "argument"), [("node-state", "n"), ("model-remote-code", "m"), ("token-revoke", 1), ("model", "m")]
)
def test_nothing_changes_without_a_login_or_by_get(client: Client, browser: Client, name: str, argument: Any) -> None:
    url = reverse(name, args=[argument])
    assert client.post(url).status_code in (302, 405)
    assert browser.get(url).status_code == (404 if name == "model" else 405)


@pytest.mark.parametrize("name", ["model", "dataset", "node"])
@pytest.mark.parametrize("argument", ["unknown", "a\x00b", "Ä", "x" * 200])
def test_an_unknown_name_is_a_404_in_words(browser: Client, name: str, argument: str) -> None:
    assert f"There is no {name} of this name." in text(browser.get(reverse(name, args=[argument])), 404)


def test_a_model_shows_its_facts_and_what_to_do_next(browser: Client) -> None:
    model = make_model("tiny.v1", parameters=134_515_008, heads=9, kv_heads=3, config={"rope_theta": 10000})
    made = make_adapter("tuned", base_model=model, job_number=7)
    listed = text(browser.get(reverse("models")))
    assert 'href="/models/tiny.v1/"' in listed
    assert "134.5 M" in listed
    page = text(browser.get(reverse("model", args=["tiny.v1"])))
    for expected in (
        "134,515,008", "2,048 tokens", "LlamaForCausalLM", "3 for keys and values", "rope_theta",
        "/jobs/new/?kind=finetune&amp;model=tiny.v1", "/jobs/new/?kind=launch&amp;model=tiny.v1",
        f"kind=launch&amp;model=tiny.v1&amp;adapter={made.name}", 'href="/jobs/7/"',
    ):  # fmt: skip
        assert expected in page


def test_a_model_of_which_little_is_known_still_has_a_page(browser: Client) -> None:
    nothing = {
        "architecture": "", "layers": None, "hidden_size": None, "context_length": None, "parameters": None,
        "disk_bytes": None, "dtype": "", "licence": "",
    }  # fmt: skip
    make_model("dark", **nothing)
    assert "not stated" in text(browser.get(reverse("model", args=["dark"])))
    assert "architecture unknown" in text(browser.get(reverse("models")))


def test_remote_code_is_approved_by_staff_for_one_revision(browser: Client, staff: Client) -> None:
    model = make_model("remote", source="hub", uri="hub://org/remote", revision="abc123")
    url = reverse("model-remote-code", args=["remote"])
    assert "not approved" in text(browser.get(reverse("model", args=["remote"])))
    text(browser.post(url, {"approved": "yes"}), 403)
    assert "approved at this revision" in text(staff.post(url, {"approved": "yes"}, follow=True))
    model.refresh_from_db()
    assert model.remote_code_approved
    assert "not approved" in text(staff.post(url, {"approved": "no"}, follow=True))


def test_remote_code_without_a_revision_is_refused_in_words(staff: Client) -> None:
    make_model("local")
    page = staff.post(reverse("model-remote-code", args=["local"]), {"approved": "yes"}, follow=True)
    assert "exact revision only" in text(page)


def test_a_model_is_added_by_the_form(browser: Client, own_store: Path) -> None:
    answer = post(browser, "model-new", **{**MODEL, "uri": str(model_folder(own_store / "m"))})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/models/tiny/")
    assert ModelProfile.objects.get().parameters == 256


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"uri": "/etc"}, "uri", "is outside the allowed roots"),
        ({"uri": ""}, "uri", "Say where the model is."),
        ({"name": "Not A Name", "uri": "store://m"}, "name", "is not a name"),
        ({"name": "new", "uri": "store://m"}, "name", "choose another name"),
        ({"name": "", "uri": "store://m"}, "name", "Give the model a name."),
        ({"source": "torrent", "uri": "store://m"}, "source", "not one of the available choices"),
        ({"uri": "store://nothing"}, "uri", "there is nothing at"),
    ],
)
def test_a_refused_model_keeps_what_was_entered(
    browser: Client, changed: dict[str, str], field: str, sentence: str
) -> None:
    page = text(post(browser, "model-new", **{**MODEL, **changed}), 422)
    assert sentence.lower() in error_at(page, field).lower()
    assert 'value="mit"' in page
    assert not ModelProfile.objects.exists()


def test_a_dataset_shows_rows_labels_and_lengths(browser: Client) -> None:
    counted = {"edges": [0, 4, 8], "counts": [3, 5], "median": 4, "p95": 7, "max": 7, "tokenizer": "smollm2"}
    dataset = make_dataset("tickets", token_histogram=counted)
    made = make_adapter("tuned", dataset=dataset, job_number=3)
    assert 'href="/datasets/tickets/"' in text(browser.get(reverse("datasets")))
    page = text(browser.get(reverse("dataset", args=["tickets"])))
    for expected in (
        escape("I can't sign in"), "billing", "0 to 3 tokens: 3 rows", "4 to 7 tokens: 5 rows", "tokens a row",
        "smollm2", "kind=finetune&amp;dataset=tickets", made.name, 'href="/jobs/3/"',
    ):  # fmt: skip
        assert expected in page


def test_a_chat_dataset_shows_its_turns(browser: Client) -> None:
    turns = [{"role": "user", "content": "<b>hi</b>"}, {"role": "assistant", "content": "hello"}]
    make_dataset("chats", format="messages", labels=[], preview=[{"messages": turns}])
    page = text(browser.get(reverse("dataset", args=["chats"])))
    assert "&lt;b&gt;hi&lt;/b&gt;" in page
    assert "<b>hi" not in page
    assert "not counted" in page


def test_preferences_show_their_answers_as_text_or_turns(browser: Client) -> None:
    rows = [
        {"prompt": "Where?", "chosen": "On its way.", "rejected": "<i>No.</i>"},
        {"prompt": [{"role": "user", "content": "Why?"}], "chosen": [{"role": "assistant", "content": "Since."}],
         "rejected": [{"role": "assistant", "content": "Go away."}]},
    ]  # fmt: skip
    make_dataset("pairs", format="preference", labels=[], preview=rows)
    page = text(browser.get(reverse("dataset", args=["pairs"])))
    for shown in ("chosen</th>", "On its way.", "&lt;i&gt;No.", '<span class="turn-role">assistant:</span> Go away.'):
        assert shown in page


def test_a_dataset_is_added_by_upload_or_uri(browser: Client, own_store: Path) -> None:
    page = browser.post(reverse("dataset-new"), {**DATASET, "file": upload(GOOD)}, follow=True)
    assert "8 training rows, 2 test rows" in text(page)
    (own_store / "more.jsonl").write_text(GOOD)
    by_uri = {**DATASET, "name": "more", "uri": str(own_store / "more.jsonl"), "test_fraction": "0"}
    assert post(browser, "dataset-new", **by_uri).status_code == 302
    assert Dataset.objects.get(name="more").test_rows == 0
    own_test = {**DATASET, "name": "own", "file": upload(GOOD), "test_file": upload('{"text": "x", "label": "a"}\n')}
    assert post(browser, "dataset-new", **own_test).status_code == 302
    assert (Dataset.objects.get(name="own").train_rows, Dataset.objects.get(name="own").test_rows) == (10, 1)


def test_each_bad_row_is_named_at_the_file(browser: Client) -> None:
    lines = GOOD.splitlines()
    lines[1], lines[3], lines[6] = "{broken", '{"text": "x"}', '{"text": "", "label": "a"}'
    page = text(
        post(browser, "dataset-new", **{**DATASET, "seed": "7", "file": upload("\n".join(lines))}),
        422,
    )
    at_file = error_at(page, "file")
    for expected in ("Row 2: it is not valid JSON.", "Row 4: ", "Row 7: "):
        assert expected in at_file
    assert 'value="tickets"' in page
    assert 'value="7"' in page
    assert not Dataset.objects.exists()


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({}, "file", "give a file or a URI"),
        ({"file": b""}, "file", "is empty"),
        ({"file": b"\x89PNG\r\n\xff"}, "file", "is no dataset"),
        ({"uri": "/etc/passwd"}, "uri", "is outside the allowed roots"),
        ({"uri": "store://none.jsonl"}, "uri", "there is nothing to read"),
        ({"file": GOOD, "test_fraction": "1.5"}, "test_fraction", "out of range"),
        ({"file": GOOD, "test_fraction": "nan"}, "test_fraction", "Use a number"),
        ({"file": GOOD, "seed": "-1"}, "seed", "greater than or equal to 0"),
        ({"file": GOOD, "format": "prompt_completion"}, "file", "is missing or empty"),
        ({"file": GOOD, "test_file": b"\xff\xfe\x00"}, "test_file", "is no dataset"),
        ({"file": GOOD, "name": "Bad Name"}, "name", "is not a name"),
        ({"file": GOOD, "name": "new"}, "name", "choose another name"),
        ({"file": '{"text": "a\\u0000b"}\n'}, "file", "row 1"),
        ({"file": '{"text": "a\\ud800b"}\n'}, "file", "row 1"),
    ],
)
def test_a_refused_dataset_keeps_what_was_entered(
    browser: Client, changed: dict[str, Any], field: str, sentence: str
) -> None:
    given = {key: upload(value) if key.endswith("file") else value for key, value in changed.items()}
    page = text(post(browser, "dataset-new", **{**DATASET, "seed": "77", **given}), 422)
    assert sentence.lower() in error_at(page, field).lower()
    assert f'value="{changed.get("seed", "77")}"' in page
    assert f'value="{changed.get("name", "tickets")}"' in page
    assert not Dataset.objects.exists()


def test_a_taken_name_is_refused(browser: Client) -> None:
    make_dataset("tickets")
    page = text(post(browser, "dataset-new", **{**DATASET, "file": upload(GOOD)}), 422)
    assert "there is already a dataset named" in error_at(page, "name").lower()


def test_long_lists_have_pages(browser: Client) -> None:
    for number in range(30):
        make_dataset(f"set-{number:02}")
    first, second = (text(browser.get(reverse("datasets"), {"page": page})) for page in ("1", "2"))
    assert "set-00" in first
    assert "set-29" not in first
    assert "set-29" in second
    assert "set-29" in text(browser.get(reverse("datasets"), {"page": "999"}))


def test_adapters_say_where_they_come_from(browser: Client) -> None:
    adapter = make_adapter("tuned", job_number=12, dataset=None)
    page = text(browser.get(reverse("adapters")))
    assert f"model={adapter.base_model.name}&amp;adapter=tuned" in page
    assert 'href="/jobs/12/"' in page


def test_nodes_show_devices_and_who_holds_them(browser: Client) -> None:
    node = make_node("gpu-1", devices=2, kind="cuda", labels={"zone": "a"}, versions={"torch": "2.13.0"})
    gone = node.accelerators.get(index=1)
    gone.present = False
    gone.save()
    make_node("old", online=False, devices=0)
    job = make_job(name="held job")
    make_attempt(job, node=node)
    listed = text(browser.get(reverse("nodes")))
    assert "0 of 1 free" in listed
    assert f'href="/jobs/{job.pk}/"' in listed
    assert "offline" in listed
    page = text(browser.get(reverse("node", args=["gpu-1"])))
    for expected in ("held job", "zone=a", "2.13.0", "16.0 GiB", "not seen at the last probe", "PHB", "100 GiB"):
        assert expected in page
    assert "has never reported" in text(browser.get(reverse("node", args=["old"])))


def test_without_nodes_the_page_says_how_to_add_one(browser: Client) -> None:
    assert "make worker REDIS_URL=" in text(browser.get(reverse("nodes")))


def test_only_staff_drains_and_resumes(browser: Client, staff: Client) -> None:
    node = make_node("gpu-1")
    url = reverse("node-state", args=["gpu-1"])
    page = reverse("node", args=["gpu-1"])
    assert url not in text(browser.get(page))
    assert "Only staff" in text(browser.post(url, {"state": "draining"}), 403)
    assert url in text(staff.get(page))
    assert "nothing new starts" in text(staff.post(url, {"state": "draining"}, follow=True))
    node.refresh_from_db()
    assert node.state == Node.State.DRAINING
    assert "is not a state of a node" in text(staff.post(url, {"state": "burning"}, follow=True))
    assert "takes jobs again" in text(staff.post(url, {"state": "active"}, follow=True))


def test_a_token_is_shown_once_and_works_until_revoked(browser: Client) -> None:
    answer = post(browser, "tokens", name="nightly", expires_at="30")
    page = text(answer, 201)
    token = page.split('<code id="token">')[1].split("<")[0]
    user = authenticate(token)
    assert user is not None
    assert user.username == "ada"
    assert "no-store" in answer.headers["Cache-Control"]
    listed = text(browser.get(reverse("tokens")))
    assert "nightly" in listed
    assert token not in listed
    record = ApiToken.objects.get()
    assert "is revoked" in text(browser.post(reverse("token-revoke", args=[record.pk]), follow=True))
    assert authenticate(token) is None


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"name": " "}, "name", "Give the token a name"),
        ({"name": "x" * 81}, "name", "at most 80"),
        ({"name": "n", "expires_at": "-5"}, "expires_at", "not one of the available choices"),
    ],
)
def test_a_refused_token_says_why(browser: Client, fields: dict[str, str], field: str, sentence: str) -> None:
    assert sentence in error_at(text(post(browser, "tokens", **fields), 422), field)
    assert not ApiToken.objects.exists()


def test_nobody_revokes_a_token_of_others(browser: Client) -> None:
    record, token = create_token(make_user("eve"), "hers")
    text(browser.post(reverse("token-revoke", args=[record.pk])), 404)
    assert authenticate(token) is not None


def test_signing_in(client: Client) -> None:
    make_user("ada")
    assert "Sign in to see that page." in text(client.get("/login/?next=/models/"))
    wrong = text(client.post("/login/", {"username": "ada", "password": "wrong", "next": "/models/"}))
    assert "Please enter a correct username and password" in wrong
    assert 'value="ada"' in wrong
    assert "Enter your password." in text(client.post("/login/", {"username": "ada", "password": ""}))
    right = client.post("/login/", {"username": "ada", "password": PASSWORD, "next": "/models/"})
    assert (right.status_code, right.headers["Location"]) == (302, "/models/")


def test_too_many_wrong_passwords_close_the_door_for_a_while(client: Client) -> None:
    make_user("ada")
    answers = [client.post("/login/", {"username": "ada", "password": "wrong"}) for _ in range(10)]
    page = text(answers[-1], 429)
    assert "Too many attempts" in page
    assert "15 minutes" in page
    assert client.post("/login/", {"username": "ada", "password": PASSWORD}).status_code == 429


def test_a_form_without_its_csrf_token_changes_nothing() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("ada"))
    assert "out of date" in text(client.post(reverse("tokens"), {"name": "n"}), 403)
    assert not ApiToken.objects.exists()


def test_error_pages_are_in_words(browser: Client, client: Client) -> None:
    assert "There is no such page." in text(browser.get("/nowhere/"), 404)
    assert "LIFTOFF_ALLOWED_HOSTS" in text(client.get("/login/", headers={"host": "evil.example"}), 400)


def test_a_crash_shows_the_plain_page(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("portal.catalog.selectors.models", broken)
    browser.raise_request_exception = False
    page = text(browser.get(reverse("models")), 500)
    assert "Something broke on our side" in page
    assert "secret" not in page


@pytest.mark.parametrize("counted", [{}, {"edges": [0], "counts": []}, {"edges": [0, 1], "counts": [0]}])
def test_nothing_counted_draws_nothing(counted: dict[str, Any]) -> None:
    assert histogram(counted) is None


def test_the_tallest_bar_stays_in_the_plot() -> None:
    drawn = histogram({"edges": [0, 1, 2], "counts": [1, 7], "median": 1, "p95": 1, "max": 1})
    assert drawn is not None
    assert [tick.text for tick in drawn.y_ticks] == ["0", "4", "8"]
    assert [bar.label for bar in drawn.bars] == ["0 tokens: 1 row", "1 token: 7 rows"]
    heights = [float(bar.height.rstrip("%")) for bar in drawn.bars]
    assert heights[1] == pytest.approx(7 * heights[0], rel=0.01)
    assert all(float(bar.y.rstrip("%")) >= 11 for bar in drawn.bars)


def error_at(page: str, field: str) -> str:
    """What stands at a field as its error, as text."""
    from html import unescape

    parts = page.split(f'id="id_{field}_error">')
    assert len(parts) == 2, f"no error at {field}"
    ends = [end for end in ("</div>", "</ul>") if end in parts[1]]
    return unescape(min((parts[1].split(end)[0] for end in ends), key=len))
