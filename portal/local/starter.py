"""What a fresh portal needs to be of use: tables, an admin account, the starter model and dataset.

Doing it twice changes nothing. Knows nothing of the demo job.
"""

import secrets
import subprocess
import sys
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.core.files import File
from django.core.management import call_command

from portal.catalog import dataset_services, services
from portal.catalog.models import Dataset, ModelProfile
from portal.catalog.store import locate
from workers.contract.names import store_uri

MODEL = "smollm2-135m-instruct"
DATASET = "starter-tickets"
STARTER_DIR = settings.BASE_DIR / "datasets" / "starter"


def migrate() -> None:
    """Bring the database to this version."""
    call_command("migrate", interactive=False, verbosity=0)


def admin_account() -> tuple[User, str | None]:
    """The first superuser, and the new account's password when there was none yet."""
    user = User.objects.filter(is_superuser=True).order_by("pk").first()
    if user is not None:
        return user, None
    password = secrets.token_urlsafe(12)
    return User.objects.create_superuser("admin", password=password), password


def starter_model(user: User) -> ModelProfile:
    """SmolLM2-135M-Instruct, converted once from the GGUF that its package carries. Raises RuntimeError."""
    found = ModelProfile.objects.filter(name=MODEL).first()
    if found is not None:
        return found
    uri = store_uri("models", MODEL)
    folder = Path(locate(uri))
    if not (folder / "config.json").exists():
        command = [sys.executable, "-m", "workers.runtimes.convert", "starter", str(folder)]
        done = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise RuntimeError(f"the starter model could not be converted: {lines[-1]}")
    return services.add_model(user, name=MODEL, uri=uri, licence="apache-2.0")


def starter_dataset(user: User) -> Dataset:
    """The support tickets of datasets/starter, with their own test split."""
    found = Dataset.objects.filter(name=DATASET).first()
    if found is not None:
        return found
    with open(STARTER_DIR / "train.jsonl", "rb") as train, open(STARTER_DIR / "test.jsonl", "rb") as test:
        return dataset_services.add_dataset(
            user, name=DATASET, file=File(train, "train.jsonl"), test_file=File(test, "test.jsonl"), format="text_label"
        )
