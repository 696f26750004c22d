"""All settings; the only reader of the environment.

With DEBUG off nothing is guessed that could harm: what must be said is asked for by name, and the
start is refused until it is said.
"""

import importlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

from sopengine.environment import Environment, host_and_port, is_host
from sopengine.headers import fits_header

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

# `manage.py demo` needs no settings and obeys none: a shell may name a database or a mail server that
# must not be touched. All that it makes is in one folder.
DEMO = Path(sys.argv[0]).name == "manage.py" and sys.argv[1:2] == ["demo"]
DEMO_FOLDER = Path(os.environ.get("DEMO_FOLDER") or BASE_DIR / ".demo").resolve()
_DEMO_SETTINGS = {
    "DEBUG": "1",
    "DATABASE_URL": f"sqlite:///{DEMO_FOLDER / 'demo.sqlite3'}",
    "CLOCK_OFFSET_FILE": str(DEMO_FOLDER / "clock"),
    "CRM_MOCK_FILE": str(DEMO_FOLDER / "crm-mock.sqlite3"),
    "EMAIL_FOLDER": str(DEMO_FOLDER / "mail"),
    "BUSINESS_NAME": "Example Services",
    "BUSINESS_ADDRESS": "1 Main Street, Minneapolis, MN 55401",
    "BUSINESS_PHONE": "(612) 555-0100",
    "REVIEW_LINK": "https://reviews.example.com/example-services",
    "ENGINE_SWEEP": "1",
    "LOG_LEVEL": "ERROR",
}

env = Environment(_DEMO_SETTINGS if DEMO else os.environ)
DEBUG = env.flag("DEBUG", default=False)

# Building needs no secrets: `manage.py collectstatic` runs where the platform has not given any yet.
_BUILDS = {"collectstatic", "compilemessages", "makemessages"}
BUILDING = Path(sys.argv[0]).name == "manage.py" and bool(_BUILDS.intersection(sys.argv[1:2]))
LIVE = not DEBUG and not BUILDING

DEVELOPMENT_SECRET = "development-only"  # noqa: S105
DEVELOPMENT_VAULT_KEY = "dev:" + "A" * 43 + "="

# -- the web ---------------------------------------------------------------------------------

SECRET_KEY = env.text("SECRET_KEY", secrets.token_urlsafe(64) if BUILDING else DEVELOPMENT_SECRET)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", ["127.0.0.1", "localhost"])
PUBLIC_URL = env.address("PUBLIC_URL", "http://127.0.0.1:8000")
# How many proxies in front of us write X-Forwarded-For; none when we are reached directly.
PROXY_COUNT = env.whole("PROXY_COUNT", 0 if DEBUG else 1)
METRICS_TOKEN = env.text("METRICS_TOKEN")

ROOT_URLCONF = "sopengine.urls"
WSGI_APPLICATION = "sopengine.wsgi.application"
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL.startswith("https://") else []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if LIVE and PROXY_COUNT else None
SECURE_SSL_REDIRECT = LIVE
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if LIVE else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Sub-domains of the firm's own domain are not ours to bind, nor is the preload list.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SESSION_COOKIE_AGE = 10 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = LIVE
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = LIVE
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "sopengine",
    "credentials",
    "crm",
    "tasks",
]
MIDDLEWARE = [
    "sopengine.logs.RequestIds",
    "sopengine.health.Alive",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "sopengine.policy.ContentPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
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
            ]
        },
    }
]

# Our own pages need nothing but our own files; the admin's skin evaluates expressions in the page.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
}
ADMIN_CONTENT_SECURITY_POLICY = {
    "script-src": ["'self'", "'unsafe-eval'"],
    "style-src": ["'self'", "'unsafe-inline'"],
}

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"] if (BASE_DIR / "static").is_dir() else []
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = DEBUG
WHITENOISE_AUTOREFRESH = DEBUG

# -- who may come in -------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
AXES_CLIENT_IP_CALLABLE = "sopengine.policy.client_address"

# -- the database ----------------------------------------------------------------------------

DATABASES: dict[str, dict[str, Any]] = {
    "default": env.database("DATABASE_URL", f"sqlite:///{BASE_DIR / 'db.sqlite3'}")
}
# Seconds; 0 for none, as a migration over a large table may need.
DATABASE_STATEMENT_TIMEOUT = env.whole("DATABASE_STATEMENT_TIMEOUT", 30)
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    DATABASES["default"]["OPTIONS"].setdefault("connect_timeout", 5)
    DATABASES["default"]["OPTIONS"].setdefault(
        "options",
        f"-c lock_timeout=5s -c statement_timeout={DATABASE_STATEMENT_TIMEOUT}s "
        "-c idle_in_transaction_session_timeout=30s",
    )
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# How many processes and threads the Procfile starts: a check compares them with the server's limit.
WEB_CONCURRENCY = env.whole("WEB_CONCURRENCY", 2, least=1)
WEB_THREADS = env.whole("WEB_THREADS", 4, least=1)
WORKER_CONCURRENCY = env.whole("WORKER_CONCURRENCY", 2, least=1)

# -- time and language -----------------------------------------------------------------------

USE_TZ = True
TIME_ZONE = env.zone("TIME_ZONE", "America/Chicago")
LANGUAGE_CODE = "en-us"
LOCALE_PATHS = [BASE_DIR / "locale"]
FIFTY_YEARS = 50 * 365.25 * 24 * 3600
CLOCK_OFFSET = env.number("CLOCK_OFFSET", 0.0, least=-FIFTY_YEARS, most=FIFTY_YEARS, by_file=False)
CLOCK_OFFSET_FILE = env.text("CLOCK_OFFSET_FILE")
if CLOCK_OFFSET_FILE and not DEMO and not Path(CLOCK_OFFSET_FILE).is_file():  # the demo writes its own
    env.refuse(
        "CLOCK_OFFSET_FILE", f"{CLOCK_OFFSET_FILE!r} is no file; expected one with a number of seconds"
    )

# -- the firm, its CRM, its chat, its mail ---------------------------------------------------

BUSINESS_NAME = env.text("BUSINESS_NAME", "Example Services")
BUSINESS_ADDRESS = env.text("BUSINESS_ADDRESS")
BUSINESS_PHONE = env.text("BUSINESS_PHONE")
# Where customers write a review; a link of this kind often ends with a query.
REVIEW_LINK = env.hook("REVIEW_LINK")
# When the firm is open, and when mail to customers leaves; all on the wall clock of TIME_ZONE.
BUSINESS_DAYS = env.days("BUSINESS_DAYS", "MON-FRI")
BUSINESS_HOURS = env.hours("BUSINESS_HOURS", "09:00-18:00")
SENDING_DAYS = env.days("SENDING_DAYS", "") if env.given("SENDING_DAYS") else BUSINESS_DAYS
SENDING_HOURS = env.hours("SENDING_HOURS", "") if env.given("SENDING_HOURS") else BUSINESS_HOURS
QUIET_HOURS = env.hours("QUIET_HOURS", "20:00-08:00", over_midnight=True)
_ALL_DAY_QUIET = QUIET_HOURS[0] <= SENDING_HOURS[0] < SENDING_HOURS[1] <= QUIET_HOURS[1] or (
    QUIET_HOURS[0] > QUIET_HOURS[1]
    and (SENDING_HOURS[1] <= QUIET_HOURS[1] or SENDING_HOURS[0] >= QUIET_HOURS[0])
)
if _ALL_DAY_QUIET:
    env.refuse("SENDING_HOURS", "lie within QUIET_HOURS; expected an hour in which mail may leave")
_HOLIDAYS = ("new_year", "memorial", "independence", "labor", "thanksgiving", "christmas")
HOLIDAYS = [] if env.text("HOLIDAYS") == "none" else env.words("HOLIDAYS", _HOLIDAYS)
if not set(HOLIDAYS) <= set(_HOLIDAYS):
    env.refuse("HOLIDAYS", f"expected none, or some of {', '.join(_HOLIDAYS)}; more are added in the admin")
# At most one marketing mail per customer in so many days, over all procedures; 0 for no limit.
MARKETING_EVERY_DAYS = env.whole("MARKETING_EVERY_DAYS", 7)
# How many requests an API key has; 0 for no limit.
API_REQUESTS_PER_MINUTE = env.whole("API_REQUESTS_PER_MINUTE", 120)
VAULT_KEYS = env.keys("VAULT_KEYS", [DEVELOPMENT_VAULT_KEY])
CRM_PROVIDER = env.name("CRM_PROVIDER", "mock")
CRM_BASE_URL = env.address("CRM_BASE_URL")
CRM_AUTH = env.choice("CRM_AUTH", "api_key", ["api_key", "oauth", "hmac"])
CRM_API_KEY = env.text("CRM_API_KEY")
if CRM_API_KEY and not fits_header(CRM_API_KEY):
    env.refuse("CRM_API_KEY", "cannot go into a header; expected ASCII: letters, digits and signs")
CRM_API_KEY_HEADER = env.text("CRM_API_KEY_HEADER", "Authorization: Bearer")
CRM_HMAC_SECRET = env.text("CRM_HMAC_SECRET")
CRM_OAUTH_GRANT = env.choice(
    "CRM_OAUTH_GRANT", "authorization_code", ["authorization_code", "client_credentials"]
)
CRM_OAUTH_AUTHORIZE_URL = env.hook("CRM_OAUTH_AUTHORIZE_URL")
CRM_OAUTH_TOKEN_URL = env.hook("CRM_OAUTH_TOKEN_URL")
CRM_OAUTH_CLIENT_ID = env.text("CRM_OAUTH_CLIENT_ID")
CRM_OAUTH_CLIENT_SECRET = env.text("CRM_OAUTH_CLIENT_SECRET")
CRM_OAUTH_SCOPES = env.text("CRM_OAUTH_SCOPES")
# For how long this CRM keeps an Idempotency-Key; 0: it ignores them.
CRM_IDEMPOTENCY_HOURS = env.number("CRM_IDEMPOTENCY_HOURS", 24.0, most=8760)
# The country of phone numbers that name none.
PHONE_REGION = env.text("PHONE_REGION", "US")
if not re.fullmatch(r"[A-Z]{2}", PHONE_REGION):
    env.refuse("PHONE_REGION", f"{PHONE_REGION!r} is no country; expected two capital letters, such as US")
# What the mock CRM remembers, shared by all processes; set but empty: only the memory of each.
CRM_MOCK_FILE = env.text("CRM_MOCK_FILE", str(VAR_DIR / "crm-mock.sqlite3"), keep_empty=True)
CRM_SYNC = env.flag("CRM_SYNC", default=False)
MIRROR_DATABASE_URL = env.text("MIRROR_DATABASE_URL")
TRANSPORTS = "slack, webhook"  # those shipped that fit for production
CHAT = env.name("CHAT", "console")
CHAT_WEBHOOK_URL = env.hook("CHAT_WEBHOOK_URL")
CHAT_WEBHOOK_SECRET = env.signing_secret("CHAT_WEBHOOK_SECRET")
# Who may be called at an address that staff typed, though the host is private or without TLS; the
# hosts configured above always may.
HTTP_ALLOWED_HOSTS = [
    *(word.lower() for word in env.words("HTTP_ALLOWED_HOSTS")),
    *(host_and_port(address) for address in (CRM_BASE_URL, CHAT_WEBHOOK_URL) if address),
]
if not all(is_host(word) for word in HTTP_ALLOWED_HOSTS):
    env.refuse("HTTP_ALLOWED_HOSTS", "expected hosts with commas, such as hooks.example.com,10.0.0.5:8443")
SLACK_BOT_TOKEN = env.text("SLACK_BOT_TOKEN")
SLACK_SIGNING_SECRET = env.text("SLACK_SIGNING_SECRET")
SLACK_API_URL = env.address("SLACK_API_URL", "https://slack.com/api")
ESCALATIONS_CHANNEL = env.text("ESCALATIONS_CHANNEL", "#escalations")
OPS_CHANNEL = env.text("OPS_CHANNEL", "#ops-log")
# Who gets by mail what is an error or worse, besides the escalations channel.
ESCALATIONS_EMAIL = env.mail_addresses("ESCALATIONS_EMAIL")
PLUGINS = env.packages("PLUGINS")

DEFAULT_FROM_EMAIL = env.mailbox("DEFAULT_FROM_EMAIL", "office@example.test")
SERVER_EMAIL = DEFAULT_FROM_EMAIL
_MAIL_FOLDER = env.text("EMAIL_FOLDER", str(VAR_DIR / "mail"))
_mail = env.mail("EMAIL_URL", _MAIL_FOLDER)
if CRM_PROVIDER == "mock" and not _mail["FOLDER"]:
    # The customers of the mock do not exist, their addresses might.
    _mail = {"BACKEND": "django.core.mail.backends.filebased.EmailBackend", "FOLDER": _MAIL_FOLDER}
EMAIL_FOLDER: str = _mail["FOLDER"]  # "" when mail goes to a server or to the console
EMAIL_FILE_PATH = EMAIL_FOLDER or None
EMAIL_BACKEND: str = _mail["BACKEND"]
EMAIL_HOST: str = _mail.get("HOST", "localhost")
EMAIL_PORT: int = _mail.get("PORT", 25)
EMAIL_HOST_USER: str = _mail.get("HOST_USER", "")
EMAIL_HOST_PASSWORD: str = _mail.get("HOST_PASSWORD", "")
EMAIL_USE_TLS: bool = _mail.get("USE_TLS", False)
EMAIL_USE_SSL: bool = _mail.get("USE_SSL", False)

# Who may post to /hooks/<source>: the scheme of its signature, and what reads what it sends.
HOOKS = env.hooks("HOOKS")
# The Amazon SNS topics that mail may come by.
MAIL_SNS_TOPIC = env.words("MAIL_SNS_TOPIC")
# Whether mail to us is read here. Then answers to our mail go to an address of their own each.
MAIL_IN = env.flag("MAIL_IN", default=False)
REPLY_DOMAIN = env.text("REPLY_DOMAIN")
if REPLY_DOMAIN and (":" in REPLY_DOMAIN or not is_host(REPLY_DOMAIN)):
    env.refuse("REPLY_DOMAIN", f"{REPLY_DOMAIN!r} is no domain; expected such as reply.example.com")

# -- the engine ------------------------------------------------------------------------------

# All times in seconds. call < deadline < lease < Celery's limits (a system check says so).
ENGINE_CALL_TIMEOUT = env.number("ENGINE_CALL_TIMEOUT", 15.0, least=0.01)
ENGINE_LEASE = env.number("ENGINE_LEASE", 60.0, least=0.01)
ENGINE_DEADLINE = env.number("ENGINE_DEADLINE", 45.0, least=0.01)
ENGINE_SWEEP = env.number("ENGINE_SWEEP", 15.0, least=0.01)
ENGINE_SILENCE = env.number("ENGINE_SILENCE", 30.0, least=0.1)  # a busy machine is no silent one
ENGINE_BRAKE = env.number("ENGINE_BRAKE", 60.0, least=0.01)  # rest after workers died again and again
ENGINE_SLICE = env.number("ENGINE_SLICE", 60.0, least=0.01)
ENGINE_SLICE_STEPS = env.whole("ENGINE_SLICE_STEPS", 20_000, least=1)
ENGINE_THREADS = env.whole("ENGINE_THREADS", 16, least=1)
ENGINE_BATCH = env.whole("ENGINE_BATCH", 100, least=1)
ENGINE_RETRY_WAITS = env.numbers("ENGINE_RETRY_WAITS", [2.0, 4.0, 8.0], most=86_400.0)
ENGINE_CRASH = env.text("SOP_CRASH")
EMAIL_TIMEOUT = ENGINE_CALL_TIMEOUT
# /readyz answers 503 when the last sweep, or the oldest task that is due, is older than this.
READY_SWEEP_AGE = env.number("READY_SWEEP_AGE", max(60.0, 4 * ENGINE_SWEEP), least=1.0)
READY_OVERDUE = env.number("READY_OVERDUE", 300.0, least=1.0)

# -- Celery: wake-ups only, no work and no data ------------------------------------------------

REDIS_SSL_CERT_REQS = env.choice("REDIS_SSL_CERT_REQS", "required", ["required", "optional", "none"])
REDIS_URL = env.redis("REDIS_URL", REDIS_SSL_CERT_REQS)
# Celery calls a socket by another name than redis-py.
CELERY_BROKER_URL = (
    REDIS_URL.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=", 1) or "memory://"
)
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 3600,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 25,
    # A wake-up that cannot be sent at once is not sent: who accepts a run must not wait for Redis.
    "max_retries": 0,
}
CELERY_BROKER_POOL_LIMIT = 2
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_DEFAULT_QUEUE = "sop"
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED = False
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 0}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
# A drain ends with its slice, the step in flight with its deadline; then there must be room to settle.
CELERY_TASK_SOFT_TIME_LIMIT = ENGINE_SLICE + max(ENGINE_LEASE, ENGINE_DEADLINE) + 30
CELERY_TASK_TIME_LIMIT = CELERY_TASK_SOFT_TIME_LIMIT + 30
CELERY_WORKER_CONCURRENCY = WORKER_CONCURRENCY
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_MAX_TASKS_PER_CHILD = 500
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 300_000
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = env.number("WORKER_GRACE", 20.0)  # seconds after SIGTERM
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_WORKER_SEND_TASK_EVENTS = False
# The schedule stands in the code and what is due in the database: beat has nothing to write to a disk.
# Beat asks for a sweep, as each worker does by its own timer: whoever is first sweeps, one period is enough.
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "engine.sweep",
        "schedule": ENGINE_SWEEP,
        "options": {"expires": max(ENGINE_SWEEP, 1.0)},
    }
}
CELERY_BEAT_SCHEDULER = "tasks.beat:Beat"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5

# -- the admin's skin --------------------------------------------------------------------------

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": BUSINESS_NAME,
    "SITE_HEADER": BUSINESS_NAME,
    "SITE_SUBHEADER": "Standard operating procedures",
    "SITE_URL": None,
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SIDEBAR": {"show_search": False, "navigation": "tasks.admin_skin.navigation"},
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.6)",
            "100": "oklch(93.2% .032 255.6)",
            "200": "oklch(88.2% .059 254.1)",
            "300": "oklch(80.9% .105 251.8)",
            "400": "oklch(70.7% .165 254.6)",
            "500": "oklch(62.3% .214 259.8)",
            "600": "oklch(54.6% .245 262.9)",
            "700": "oklch(48.8% .243 264.4)",
            "800": "oklch(42.4% .199 265.6)",
            "900": "oklch(37.9% .146 265.5)",
            "950": "oklch(28.2% .091 267.9)",
        }
    },
}

# -- logs and reports: ids and codes only ------------------------------------------------------

LOG_FORMAT = env.choice("LOG_FORMAT", "text" if DEBUG else "json", ["json", "text"])
LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
# What a command prints may be data that another program reads; a server prints nothing but its log.
_COMMAND = Path(sys.argv[0]).name == "manage.py" and sys.argv[1:2] not in ([], ["serve"], ["runserver"])
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "sopengine.logs.JsonFormatter"},
        "text": {"()": "sopengine.logs.TextFormatter"},
    },
    "handlers": {
        "log": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr" if _COMMAND else "ext://sys.stdout",
            "formatter": LOG_FORMAT,
        },
    },
    "root": {"handlers": ["log"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"level": "INFO", "handlers": [], "propagate": True},
        "django.server": {"level": "INFO", "handlers": [], "propagate": True},
        # One line for each wake-up would drown the rest.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.worker.request": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        # It writes addresses, and a search has a customer in its address; so do its warnings of an answer
        # with a line that is no header. What became of a call is told by sopengine.http.
        "urllib3": {"level": "ERROR"},
        "axes": {"level": "WARNING"},
        # Anybody may ask for any host; that is refused, and no news.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
SENTRY_DSN = env.text("SENTRY_DSN")

# -- how the CRM is logged in to -----------------------------------------------------------------

if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,60}(: ?[A-Za-z][A-Za-z0-9_-]{0,60})?", CRM_API_KEY_HEADER):
    env.refuse("CRM_API_KEY_HEADER", "is no header; expected such as X-Api-Key, or Authorization: Bearer")
if CRM_AUTH == "oauth" and CRM_PROVIDER != "mock":
    _by_person = CRM_OAUTH_GRANT == "authorization_code"
    for _name in ("CRM_OAUTH_TOKEN_URL", "CRM_OAUTH_CLIENT_ID", "CRM_OAUTH_AUTHORIZE_URL"):
        if not env.given(_name) and (_by_person or _name != "CRM_OAUTH_AUTHORIZE_URL"):
            env.refuse(_name, "is not set; CRM_AUTH=oauth expected what the CRM's API console says of it")
    for _name in ("CRM_OAUTH_TOKEN_URL", "CRM_OAUTH_AUTHORIZE_URL"):
        if LIVE and env.text(_name).startswith("http://"):
            env.refuse(_name, "would show secrets on their way; with DEBUG off expected https://")

# -- what must be said, and what must not be, when customers are real --------------------------

if CRM_SYNC:
    env.refuse("CRM_SYNC", "is not part of this version; expected off")
if DATABASES["default"]["ENGINE"].endswith("sqlite3") and DATABASES["default"]["NAME"] == ":memory:":
    env.refuse("DATABASE_URL", "has no file; every process would have a database of its own; expected a path")
if LIVE:
    for _name, _expected in {
        "SECRET_KEY": "50 random characters",
        "ALLOWED_HOSTS": "the host names that reach this site, with commas",
        "VAULT_KEYS": "name:base64 of 32 random bytes",
        "CRM_PROVIDER": "the name of the CRM, such as rest (or mock, to try things out)",
        "CHAT": f"the name of a transport: {TRANSPORTS}",
    }.items():
        if not env.given(_name):
            env.refuse(_name, f"is not set; with DEBUG off expected {_expected}")
    if len(SECRET_KEY) < 50 or len(set(SECRET_KEY)) < 5 or SECRET_KEY.startswith("django-insecure"):
        env.refuse("SECRET_KEY", "is too easy to guess; with DEBUG off expected 50 random characters")
    if "*" in ALLOWED_HOSTS:
        env.refuse("ALLOWED_HOSTS", "'*' allows any host; with DEBUG off expected host names")
    if any(set(key.partition(":")[2].rstrip("=")) == {"A"} for key in VAULT_KEYS):
        env.refuse("VAULT_KEYS", "has the key of the development; with DEBUG off expected 32 random bytes")
    if CHAT == "console":
        env.refuse("CHAT", f"'console' is for development; with DEBUG off expected a transport: {TRANSPORTS}")
    if CHAT == "webhook" and not env.given("CHAT_WEBHOOK_URL"):
        env.refuse("CHAT_WEBHOOK_URL", "is not set; CHAT=webhook expected the address to post to")
    if CRM_PROVIDER != "mock" and (EMAIL_FOLDER or EMAIL_BACKEND.endswith("console.EmailBackend")):
        env.refuse("EMAIL_URL", "mail would go nowhere; with DEBUG off expected smtp+tls:// or smtps://")
    if EMAIL_HOST_PASSWORD and not (EMAIL_USE_TLS or EMAIL_USE_SSL):
        env.refuse(
            "EMAIL_URL", "would send a password in clear; with DEBUG off expected smtp+tls:// or smtps://"
        )
    for _name in ("CLOCK_OFFSET", "CLOCK_OFFSET_FILE", "SOP_CRASH"):
        if env.text(_name, by_file=False):
            env.refuse(_name, "is for development; with DEBUG off expected not to be set")

if SENTRY_DSN:
    try:
        _sentry = importlib.import_module("sentry_sdk")
    except ImportError:
        env.refuse("SENTRY_DSN", "needs a package that is not installed; expected: pip install sentry-sdk")
    else:
        _logs = importlib.import_module("sopengine.logs")
        _sentry.init(
            dsn=SENTRY_DSN,
            send_default_pii=False,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            before_send=_logs.scrub_report,
        )
env.finish()
