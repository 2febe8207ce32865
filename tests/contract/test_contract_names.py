"""Names that cross machines: URIs stay inside their roots, URLs keep their meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.names import SLUG, UnsafeURI, broker_url, job_stream, node_queue, resolve, store_uri

ROOT = "file:///srv/store"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("store://models/x", "file:///srv/store/models/x"),
        ("store://x", "file:///srv/store/x"),
        ("/srv/store/x", "/srv/store/x"),
        ("file:///srv/store/x", "/srv/store/x"),
        ("/mnt/data/x", "/mnt/data/x"),
        ("s3://bucket/team/x", "s3://bucket/team/x"),
    ],
)
def test_places_inside_the_roots(uri, place):
    assert resolve(uri, ROOT, ("/mnt/data", "s3://bucket/team")) == place


@pytest.mark.parametrize(
    "uri",
    [
        "store://../x",
        "store://a/../../x",
        "store://",
        "/etc/passwd",
        "/srv/store/../x",
        "/srv/store-sibling/x",
        "file:///mnt/data2/x",
        "s3://bucket/teams/x",
        "s3://other/x",
        "http://host/x",
        "ftp://host/x",
        "relative/path",
        "",
    ],
)
def test_places_outside_the_roots_are_refused_with_a_sentence(uri):
    with pytest.raises(UnsafeURI) as caught:
        resolve(uri, ROOT, ("/mnt/data", "s3://bucket/team"))
    assert repr(uri) in str(caught.value)
    assert str(caught.value).endswith(".")


@given(st.text(alphabet="./ab:%~\\", max_size=30))
def test_no_store_uri_leads_out_of_the_store(path):
    try:
        place = resolve(f"store://{path}", ROOT)
    except UnsafeURI:
        return
    assert place.startswith(ROOT + "/")
    assert ".." not in place.removeprefix(ROOT).split("/")


def test_made_names():
    assert store_uri("datasets", "/ab12/") == "store://datasets/ab12"
    assert job_stream(3) == "liftoff:job:3"
    assert node_queue("n1") == "node.n1"


@pytest.mark.parametrize(
    ("redis_url", "celery_url"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://u:p@h", "rediss://u:p@h"),
        ("unix:///run/r.sock?db=3", "redis+socket:///run/r.sock?virtual_host=3"),
        ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
    ],
)
def test_redis_urls_in_celerys_spelling(redis_url, celery_url):
    assert broker_url(redis_url) == celery_url


@pytest.mark.parametrize("name", ["a", "0", "smollm2-135m", "a.b_c-d", "x" * 63])
def test_good_names(name):
    assert SLUG.fullmatch(name)


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a b", "ä", "x" * 64, "a\n"])
def test_bad_names(name):
    assert not SLUG.fullmatch(name)
