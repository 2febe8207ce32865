"""What is no good is refused in one sentence, and then nothing has changed: no row, no file."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django.fixtures import Settings

from portal.catalog import store
from portal.local.backup import schema, tables
from portal.local.backup.archive import MANIFEST
from tests.portal.backup import databases
from tests.portal.backup.conftest import (
    Used,
    picture,
    stored,
)
from tests.portal.factories import make_job, make_user


def rewritten(file: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    """The archive again, with each member replaced by what `change` makes of it."""
    target = file.with_name("changed.tar.gz")
    with tarfile.open(file) as old, tarfile.open(target, "w:gz") as new:
        for info in old:
            for name, data in change(info.name, old.extractfile(info).read()):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return target


def refusal(file: Path, *options: str) -> str:
    """The sentence with which `restore` refuses."""
    with pytest.raises(CommandError) as refused:
        call_command("restore", str(file), *options)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


class TestRefusals:
    @pytest.fixture
    def file(self, used: Used, tmp_path: Path) -> Path:
        """A copy, since some tests write beside it."""
        return Path(shutil.copy(used.backup, tmp_path / "b.tar.gz"))

    @pytest.fixture
    def untouched(self, used: Used, tmp_path: Path) -> Iterator[None]:
        """A portal in use; in the end it must be as it was."""
        with databases.portal_on(used.copy(tmp_path)):
            make_job(make_user("someone-else"))
            store.put("store://datasets/d1/train.jsonl", b"its own")
            before = picture(), stored()
            yield
            assert (picture(), stored()) == before

    @pytest.mark.usefixtures("untouched")
    def test_a_database_in_use(self, file: Path) -> None:
        assert "--replace" in refusal(file)

    @pytest.mark.usefixtures("untouched")
    @pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"hello", mtime=0), b"\x1f\x8b"])
    def test_a_file_that_is_no_backup(self, content: bytes, tmp_path: Path) -> None:
        other = tmp_path / "other.tar.gz"
        other.write_bytes(content)
        assert "is no backup of Liftoff's" in refusal(other, "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_another_tar_and_no_file_at_all(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
            tar.add(__file__, "test.py")
        assert "is no backup of Liftoff's" in refusal(tmp_path / "other.tar.gz", "--replace")
        assert "No such file" in refusal(tmp_path / "none.tar.gz", "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_a_file_that_was_cut_off_anywhere(self, file: Path, tmp_path: Path) -> None:
        whole, cut = file.read_bytes(), tmp_path / "cut.tar.gz"
        for length in (len(whole) // 10, len(whole) // 2, len(whole) - 9, len(whole) - 1):
            cut.write_bytes(whole[:length])
            assert "nothing was restored" in refusal(cut, "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_a_bit_that_flipped_anywhere(self, file: Path, tmp_path: Path) -> None:
        whole, flipped = file.read_bytes(), tmp_path / "flipped.tar.gz"
        for place in range(40, len(whole), len(whole) // 15):
            damaged = bytearray(whole)
            damaged[place] ^= 0x10
            flipped.write_bytes(damaged)
            assert "flipped.tar.gz" in refusal(flipped, "--replace")

    @pytest.mark.usefixtures("untouched")
    @pytest.mark.parametrize("part", ["tables/telemetry.metricpoint/", "store/datasets/d1/train", "store/jobs/1-1-aa/"])
    def test_a_member_that_is_not_what_the_manifest_says(self, part: str, file: Path) -> None:
        changed = rewritten(
            file, lambda name, data: [(name, data.replace(b"1", b"2") + b" ")] if part in name else [(name, data)]
        )
        assert f"damaged: {part}" in refusal(changed, "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_a_member_too_few_or_too_many(self, file: Path) -> None:
        lacking = rewritten(file, lambda name, data: [] if "logline" in name else [(name, data)])
        assert "damaged: tables/telemetry.logline" in refusal(lacking, "--replace")
        more = rewritten(file, lambda name, data: [("store/../../evil", b"x")] * (name == MANIFEST) + [(name, data)])
        assert "damaged: store/../../evil" in refusal(more, "--replace")
        after = rewritten(file, lambda name, data: [(name, data)] + [("store/evil", b"x")] * (name == MANIFEST))
        assert "goes on with store/evil" in refusal(after, "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_a_newer_schema_and_a_newer_format(self, file: Path) -> None:
        def header(**changes: Any) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
            return lambda name, data: [(name, self.sealed(name, data, changes))]

        migrations = [*schema.applied(), ("jobs", "0999_teleport")]
        newer = refusal(rewritten(file, header(liftoff="9.1", migrations=migrations)), "--replace")
        assert "9.1" in newer
        assert "jobs.0999_teleport" in newer
        assert "format 7" in refusal(rewritten(file, header(format=7, tables="unheard of")), "--replace")

    def sealed(self, name: str, data: bytes, changes: dict[str, Any]) -> bytes:
        """A header with changes, and the manifest that goes with it."""
        if name == "liftoff-backup.json":
            self.header = json.dumps({**json.loads(data), **changes}).encode()
            return self.header
        if name == MANIFEST:
            manifest = json.loads(data)
            sha256 = hashlib.sha256(self.header).hexdigest()
            manifest["members"]["liftoff-backup.json"] = {"size": len(self.header), "sha256": sha256}
            return json.dumps(manifest).encode()
        return data

    @pytest.mark.usefixtures("untouched")
    def test_a_row_that_the_database_refuses_undoes_all(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load = tables.load

        def spoiled(model: Any, content: Any) -> int:
            if model._meta.label_lower == "telemetry.metricpoint":
                content = io.BytesIO(content.read().replace(b'"loss"', b"null"))
            return load(model, content)

        monkeypatch.setattr(tables, "load", spoiled)
        assert "A row of telemetry.metricpoint can't be stored" in refusal(file, "--replace")

    @pytest.mark.usefixtures("untouched")
    def test_a_store_that_refuses_a_file_undoes_all(self, file: Path, settings: Settings) -> None:
        blocked = Path(settings.LIFTOFF_STORE.removeprefix("file://")) / "jobs"
        blocked.write_text("a file where a folder must be")
        try:
            assert "can't be put into the artifact store" in refusal(file, "--replace")
        finally:
            blocked.unlink()

    def test_a_database_of_a_newer_liftoff_is_neither_backed_up_nor_replaced(
        self, used: Used, file: Path, tmp_path: Path
    ) -> None:
        with databases.portal_on(used.copy(tmp_path)):
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO django_migrations (app, name, applied) VALUES ('jobs', '0999_x', '2026-01-01')"
                )
            assert "jobs.0999_x" in refusal(file, "--replace")
            with pytest.raises(CommandError, match=r"jobs\.0999_x"):
                call_command("backup", str(tmp_path / "other.tar.gz"))
