"""Puts the sentences of a refusal on the fields of a form. Knows no form and no rule."""

from django import forms

from workers.contract.errors import Refused


def show(form: forms.BaseForm, refused: Refused) -> None:
    """Add every sentence to its field, without the field's name in front; to the form where it has no such field."""
    for error in refused.errors:
        if error.field in form.fields:
            sentence = error.message.removeprefix(f"{error.field}: ")
            form.add_error(error.field, sentence[:1].upper() + sentence[1:])
        else:
            form.add_error(None, error.message)
