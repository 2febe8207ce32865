"""The page of a user's own API tokens. A token is in the answer to the request that made it, and nowhere else."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import selectors, services
from portal.accounts.forms import TokenForm
from portal.accounts.models import ApiToken
from portal.accounts.requests import SignedInRequest


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def tokens(request: SignedInRequest) -> HttpResponse:
    """The tokens that work, and the form for one more."""
    form = TokenForm(request.POST if request.method == "POST" else None)
    made = form.save(request.user) if form.is_bound else None
    status = 200 if not form.is_bound else 201 if made else 422
    context = {"form": TokenForm() if made else form, "made": made, "tokens": selectors.tokens(request.user)}
    return render(request, "accounts/tokens.html", context, status=status)


@require_POST
@login_required
def token_revoke(request: SignedInRequest, pk: int) -> HttpResponse:
    """End one of the user's own tokens."""
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    services.revoke(request.user, token)
    messages.success(request, f"The token {token.name!r} is revoked; it works no more.")
    return redirect("tokens")
