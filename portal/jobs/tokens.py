"""The bearer token that the portal and a served model share: derived, never stored. Knows nothing of users."""

import hmac
from hashlib import sha256

from django.conf import settings


def serve_token(job: int, attempt: int) -> str:
    """HMAC-SHA256 of the attempt's name under the portal's secret key, in hex."""
    return hmac.new(settings.SECRET_KEY.encode(), f"serve:{job}:{attempt}".encode(), sha256).hexdigest()
