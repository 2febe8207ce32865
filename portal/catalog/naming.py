"""What models and datasets may be called. Knows nothing of what else they are."""

from portal.catalog.models import Dataset, ModelProfile
from workers.contract.errors import Refused
from workers.contract.names import SLUG


def check_name(name: str, what: str, records: type[ModelProfile] | type[Dataset]) -> None:
    """Raises Refused at name for a name that is none, or another record's."""
    if not SLUG.fullmatch(name):
        raise Refused.at(
            "name",
            name,
            f"name: {name!r} is not a name; use lower-case letters, digits, dots, dashes and underscores, "
            "starting with a letter or digit.",
        )
    if name == "new":
        raise Refused.at("name", name, "name: 'new' is the page that adds one; choose another name.")
    if records.objects.filter(name=name).exists():
        raise taken(what, name)


def taken(what: str, name: str) -> Refused:
    """The refusal of a name that is another record's."""
    return Refused.at("name", name, f"name: there is already a {what} named {name!r}; choose another name.")
