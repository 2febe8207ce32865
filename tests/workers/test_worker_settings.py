"""The worker's environment variables: defaults, and one sentence for each mistake."""

import pytest

from workers.contract.names import SLUG
from workers.settings import SettingsError, from_environment, slugify


def test_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = from_environment({"REDIS_URL": "redis://h/0"})
    assert SLUG.match(settings.node)
    assert settings.address == "127.0.0.1"
    assert settings.home == tmp_path / "var"
    assert settings.store == f"file://{tmp_path}/var/store"
    assert settings.allowed_roots == ()
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 9400)
    assert settings.runs_dir == tmp_path / "var/runs" / settings.node
    assert (settings.stop_grace_s, settings.spool_limit_bytes) == (20, 2 * 1024**3)


def test_what_is_given():
    settings = from_environment(
        {
            "REDIS_URL": "unix:///run/r.sock?db=2",
            "LIFTOFF_NODE_NAME": "gpu-1",
            "LIFTOFF_NODE_ADDRESS": "10.1.2.3",
            "LIFTOFF_HOME": "/srv/liftoff",
            "LIFTOFF_STORE": "s3://bucket/liftoff",
            "LIFTOFF_ALLOWED_ROOTS": "/mnt/a, s3://b ,",
            "LIFTOFF_METRICS_HOST": "0.0.0.0",
            "LIFTOFF_METRICS_PORT": "0",
            "LIFTOFF_STOP_GRACE_S": "0.5",
            "LIFTOFF_SPOOL_LIMIT_MIB": "10",
        }
    )
    assert (settings.stop_grace_s, settings.spool_limit_bytes) == (0.5, 10 * 1024**2)
    assert settings.node == "gpu-1"
    assert settings.store == "s3://bucket/liftoff"
    assert settings.allowed_roots == ("/mnt/a", "s3://b")
    assert settings.metrics_port == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"REDIS_URL": "http://me:secret@h"}, "REDIS_URL: 'http://h' must start with redis://"),
        ({"LIFTOFF_NODE_NAME": "GPU 1"}, "LIFTOFF_NODE_NAME: 'GPU 1' is not a name"),
        ({"LIFTOFF_METRICS_PORT": "high"}, "LIFTOFF_METRICS_PORT: 'high' is not a port"),
        ({"LIFTOFF_METRICS_PORT": "70000"}, "LIFTOFF_METRICS_PORT: '70000' is not a port"),
        ({"LIFTOFF_STOP_GRACE_S": "-1"}, "LIFTOFF_STOP_GRACE_S: '-1' does not work; use a number from 0 to 3600."),
        ({"LIFTOFF_STOP_GRACE_S": "nan"}, "LIFTOFF_STOP_GRACE_S: 'nan' does not work"),
        ({"LIFTOFF_SPOOL_LIMIT_MIB": "lots"}, "LIFTOFF_SPOOL_LIMIT_MIB: 'lots' does not work"),
    ],
)
def test_mistakes_are_named(wrong, sentence):
    with pytest.raises(SettingsError) as caught:
        from_environment({"REDIS_URL": "redis://h/0", **wrong})
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("hostname", "slug"),
    [("GPU-Box.Local", "gpu-box.local"), ("a b__c", "a-b__c"), ("--", "node"), ("x" * 90, "x" * 63)],
)
def test_host_names_become_node_names(hostname, slug):
    assert slugify(hostname) == slug
    assert SLUG.match(slug)
