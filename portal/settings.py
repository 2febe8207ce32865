"""Settings of the portal, all from the environment, with defaults that need nothing but this checkout.

The defaults are the embedded ones: SQLite and a Redis that Liftoff starts itself, both below LIFTOFF_HOME.
Does not know who starts that Redis (portal.local) nor how a worker is configured (workers.settings).
"""

import hashlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

import dj_database_url
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from portal import environment

BASE_DIR = Path(__file__).resolve().parent.parent

LIFTOFF_HOME = Path(os.environ.get("LIFTOFF_HOME", BASE_DIR / "var")).resolve()
LIFTOFF_HOME.mkdir(parents=True, exist_ok=True)


def _secret_key() -> str:
    """LIFTOFF_SECRET_KEY, or one made once and kept in LIFTOFF_HOME (mode 0600)."""
    if key := os.environ.get("LIFTOFF_SECRET_KEY"):
        return key
    path = LIFTOFF_HOME / "secret_key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(handle, "w") as file:
        key = secrets.token_urlsafe(50)
        file.write(key)
    return key


def _embedded_redis_socket() -> Path:
    """Where the bundled Redis is. A Unix socket's path holds 100 bytes or so; a deep home moves to the temp dir."""
    path = LIFTOFF_HOME / "redis" / "valkey.sock"
    if len(str(path).encode()) < 100:
        return path
    mark = hashlib.sha256(str(LIFTOFF_HOME).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"liftoff-{os.getuid()}-{mark}" / "valkey.sock"


SECRET_KEY = _secret_key()
DEBUG = environment.flag("LIFTOFF_DEBUG")
ALLOWED_HOSTS = environment.listed("LIFTOFF_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = environment.listed("LIFTOFF_TRUSTED_ORIGINS")

EMBEDDED_REDIS_SOCKET = _embedded_redis_socket()
REDIS_URL = os.environ.get("REDIS_URL") or f"unix://{EMBEDDED_REDIS_SOCKET}?db=0"
REDIS_IS_EMBEDDED = not os.environ.get("REDIS_URL")

LIFTOFF_STORE = os.environ.get("LIFTOFF_STORE", f"file://{LIFTOFF_HOME / 'store'}")
LIFTOFF_ALLOWED_ROOTS = tuple(environment.listed("LIFTOFF_ALLOWED_ROOTS"))
LIFTOFF_UPLOAD_LIMIT = int(os.environ.get("LIFTOFF_UPLOAD_LIMIT_MIB", "512")) * 2**20
LIFTOFF_NODE_LOST_S = float(os.environ.get("LIFTOFF_NODE_LOST_S", "30"))
LIFTOFF_START_TIMEOUT_S = float(os.environ.get("LIFTOFF_START_TIMEOUT_S", "120"))
LIFTOFF_MIN_DISK_GIB = float(os.environ.get("LIFTOFF_MIN_DISK_GIB", "1"))
LIFTOFF_RULES = environment.rules("LIFTOFF_RULES")
LIFTOFF_SCHEDULING = environment.scheduling("LIFTOFF_SCHEDULING")
LIFTOFF_PRICE_PER_HOUR = environment.dollars("LIFTOFF_PRICE_PER_HOUR")
LIFTOFF_TOKEN_REQUESTS_PER_MINUTE = int(os.environ.get("LIFTOFF_TOKEN_REQUESTS_PER_MINUTE", "6000"))
LIFTOFF_TOKEN_CONCURRENT_REQUESTS = int(os.environ.get("LIFTOFF_TOKEN_CONCURRENT_REQUESTS", "256"))
LIFTOFF_GATEWAY_REMEMBERS_S = float(os.environ.get("LIFTOFF_GATEWAY_REMEMBERS_S", "2"))
LIFTOFF_WAKE_S = float(os.environ.get("LIFTOFF_WAKE_S", "300"))
LIFTOFF_KEEP = {
    "metrics": environment.keep("METRICS", days=365, size=100_000_000, unit="ROWS"),
    "logs": environment.keep("LOGS", days=180, size=50_000_000, unit="ROWS"),
    "events": environment.keep("EVENTS", days=730, size=20_000_000, unit="ROWS"),
    "nodes": environment.keep("NODES", days=365, size=100_000, unit="ROWS"),
    "results": environment.keep("RESULTS", days=365, size=1000, unit="GIB"),
}
"""What of finished jobs, and of what happened to nodes, is kept, and how long."""

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": (
        "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA temp_store=MEMORY;"
        "PRAGMA mmap_size=134217728;PRAGMA journal_size_limit=27103364;"
    ),
}
DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{LIFTOFF_HOME / 'liftoff.sqlite3'}", conn_max_age=60, conn_health_checks=True
    )
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = SQLITE_OPTIONS
elif not DATABASES["default"]["ENGINE"].endswith("postgresql"):
    raise ImproperlyConfigured("DATABASE_URL: use sqlite:///… or postgres://…; Liftoff is tested on those two.")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "axes",
    "channels",
    "csp",
    "django_htmx",
    "ninja",
    "portal.accounts",
    "portal.catalog",
    "portal.fleet",
    "portal.jobs",
    "portal.serving",
    "portal.telemetry",
    "portal.live",
    "portal.local",
    "portal.pages",
    "portal.api",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_PARAMETERS = [["ip_address", "username"]]  # behind a proxy all addresses look alike
AXES_LOCKOUT_TEMPLATE = "registration/lockout.html"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
            ]
        },
    }
]

# redis-py 8 ends a blocking read after 5 s unless told otherwise, which would close idle websockets.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": 30}], "prefix": "liftoff:channels"},
    }
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = LIFTOFF_HOME / "static"
STATIC_ROOT.mkdir(exist_ok=True)
NODE_MODULES = BASE_DIR / "node_modules"
STATICFILES_DIRS: list[Path | tuple[str, Path]] = [BASE_DIR / "static"]
for _name, _folder in {
    "vendor/tabler": NODE_MODULES / "@tabler/core/dist",
    "vendor/uplot": NODE_MODULES / "uplot/dist",
}.items():
    if _folder.is_dir():
        STATICFILES_DIRS.append((_name, _folder))
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

DATA_UPLOAD_MAX_MEMORY_SIZE = 6 * 2**20
FILE_UPLOAD_MAX_MEMORY_SIZE = 4 * 2**20

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
_HTTPS = environment.flag("LIFTOFF_HTTPS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _HTTPS else None

CONTENT_SECURITY_POLICY = {
    # The admin's theme needs inline styles and Alpine's evaluator; the docs page has an inline script.
    "EXCLUDE_URL_PREFIXES": ["/admin/", "/api/v1/docs"],
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, "'unsafe-inline'"],
        "img-src": [SELF, "data:"],
        "font-src": [SELF, "data:"],
        "connect-src": [SELF, "ws:", "wss:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    },
}

UNFOLD = {
    "SITE_TITLE": "Liftoff",
    "SITE_HEADER": "Liftoff",
    "SITE_SYMBOL": "rocket_launch",
    "SITE_URL": "/",
    "SHOW_HISTORY": True,
    "SIDEBAR": {"show_search": True, "navigation": "portal.admin_navigation.navigation"},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "stream": sys.stderr}},
    "root": {"handlers": ["console"], "level": os.environ.get("LIFTOFF_LOG_LEVEL", "INFO")},
    "loggers": {"axes": {"level": "WARNING"}, "httpx": {"level": "WARNING"}},
}
SILENCED_SYSTEM_CHECKS: list[str] = []
