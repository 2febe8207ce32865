"""The form that makes an API token. The services decide what is refused."""

from datetime import timedelta

from django import forms
from django.contrib.auth.models import User
from django.utils import timezone

from portal import form_errors
from portal.accounts import services
from workers.contract.errors import Refused

LIFETIMES = [("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"), ("", "never")]


class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label="What uses it",
        max_length=80,
        error_messages={"required": "Give the token a name that says what uses it."},
        widget=forms.TextInput(
            attrs={"class": "form-control", "autocomplete": "off", "placeholder": "nightly evaluation"}
        ),
    )
    expires_at = forms.ChoiceField(
        label="Ends",
        choices=LIFETIMES,
        initial="90",
        required=False,
        widget=forms.Select(attrs={"class": "form-select"}),
    )

    def save(self, user: User) -> str | None:
        """Make the token and give it, the one time it can be read; None when it was refused."""
        if not self.is_valid():
            return None
        days = self.cleaned_data["expires_at"]
        expires_at = timezone.now() + timedelta(days=int(days)) if days else None
        try:
            _, token = services.create_token(user, self.cleaned_data["name"], expires_at)
        except Refused as refused:
            form_errors.show(self, refused)
            return None
        return token
