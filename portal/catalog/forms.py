"""Forms that add a model or a dataset. They read strings; the services decide what is refused."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile

from portal import form_errors
from portal.catalog import dataset_services, services
from portal.catalog.models import Dataset, ModelProfile
from workers.contract.errors import Refused

NAME_HINT = "Lower-case letters, digits, dots, dashes and underscores."
LARGEST_SEED = 2**32 - 1


def _text(label: str, hint: str, limit: int, *, needed: str = "", example: str = "") -> forms.CharField:
    """A line of text; `needed` is the sentence shown when it is left empty."""
    attrs = {"class": "form-control", "autocomplete": "off", "spellcheck": "false", "placeholder": example}
    return forms.CharField(
        label=label,
        help_text=hint,
        max_length=limit,
        required=bool(needed),
        error_messages={"required": needed},
        widget=forms.TextInput(attrs=attrs),
    )


def _places() -> str:
    roots = ", ".join(settings.LIFTOFF_ALLOWED_ROOTS)
    return f"store://… or a path below {roots or 'LIFTOFF_ALLOWED_ROOTS (none are set)'}"


class ModelForm(forms.Form):
    """A new model profile."""

    name = _text("Name", NAME_HINT, 63, needed="Give the model a name.", example="smollm2-135m-instruct")
    source = forms.ChoiceField(
        label="Source", choices=ModelProfile.Source.choices, widget=forms.Select(attrs={"class": "form-select"})
    )
    uri = _text("Where it is", "", 500, needed="Say where the model is.")
    revision = _text("Revision", "Hub only: a commit, tag or branch; empty for the latest. Kept as the commit.", 64)
    licence = _text("Licence", "Such as apache-2.0; empty takes what the hub says.", 80)

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.fields["uri"].help_text = f"Folder or GGUF file: {_places()}. Hub: hub://organisation/name."

    def save(self, user: User) -> ModelProfile | None:
        """Add the model; None when it was refused, with each sentence on its field."""
        if not self.is_valid():
            return None
        try:
            return services.add_model(user, **self.cleaned_data)
        except Refused as refused:
            form_errors.show(self, refused)
            return None


class DatasetForm(forms.Form):
    """A new dataset, uploaded or by URI."""

    name = _text("Name", NAME_HINT, 63, needed="Give the dataset a name.", example="support-tickets")
    format = forms.ChoiceField(
        label="Format",
        choices=[("auto", "Find out from the first row"), *Dataset.Format.choices],
        help_text="Which columns the rows have.",
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    file = forms.FileField(
        label="File",
        required=False,
        allow_empty_file=True,
        help_text="JSONL, JSON, CSV or Parquet.",
        widget=forms.FileInput(attrs={"class": "form-control", "accept": ".jsonl,.ndjson,.json,.csv,.parquet"}),
    )
    uri = _text("Or a URI", "", 500)
    test_file = forms.FileField(
        label="Test file",
        required=False,
        allow_empty_file=True,
        help_text="Optional; without it a part of the rows is held out.",
        widget=forms.FileInput(attrs={"class": "form-control", "accept": ".jsonl,.ndjson,.json,.csv,.parquet"}),
    )
    test_uri = _text("Or its URI", "", 500)
    test_fraction = forms.FloatField(
        label="Held out for the test split",
        initial=0.2,
        help_text="Fraction of the rows, 0 to less than 1. Not used with a test file, nor of a folder of shards.",
        error_messages={"required": "Say how much to hold out; 0 holds out nothing.", "invalid": "Use a number."},
        widget=forms.TextInput(attrs={"class": "form-control", "inputmode": "decimal", "autocomplete": "off"}),
    )
    seed = forms.IntegerField(
        label="Seed of the split",
        initial=42,
        min_value=0,
        max_value=LARGEST_SEED,
        help_text="The same seed holds out the same rows.",
        error_messages={"required": "Use a whole number.", "invalid": "Use a whole number."},
        widget=forms.TextInput(attrs={"class": "form-control", "inputmode": "numeric", "autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, files: Any = None) -> None:
        super().__init__(data, files)
        limit = settings.LIFTOFF_UPLOAD_LIMIT // 2**20
        self.fields["file"].help_text = f"JSONL, JSON, CSV or Parquet, at most {limit} MiB."
        self.fields["uri"].help_text = f"Instead of a file, a file or a folder of shards: {_places()}."

    def save(self, user: User) -> Dataset | None:
        """Add the dataset; None when it was refused, with each sentence (one a bad row) on its field."""
        if not self.is_valid():
            return None
        given = self.cleaned_data
        try:
            return dataset_services.add_dataset(
                user,
                **{key: given[key] for key in ("name", "format", "uri", "test_uri", "test_fraction", "seed")},
                file=_upload(given["file"]),
                test_file=_upload(given["test_file"]),
            )
        except Refused as refused:
            form_errors.show(self, refused)
            return None

    @property
    def forgot_file(self) -> bool:
        """Whether a file was sent that the browser can't fill in again."""
        return bool(self.files)


def _upload(given: Any) -> "UploadedFile[bytes] | None":
    return given if isinstance(given, UploadedFile) else None
