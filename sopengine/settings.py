"""All settings; the only reader of the environment."""

from pathlib import Path

import environ

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env("SECRET_KEY", default="development-only")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost"])
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
REDIS_URL = env("REDIS_URL", default="")
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "sopengine",
    "credentials",
    "crm",
    "tasks",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "sopengine.urls"
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
STATIC_URL = "/static/"
USE_TZ = True
TIME_ZONE = env("TIME_ZONE", default="America/Chicago")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CLOCK_OFFSET = env.float("CLOCK_OFFSET", default=0.0)
CLOCK_OFFSET_FILE = env("CLOCK_OFFSET_FILE", default="")
PUBLIC_URL = env("PUBLIC_URL", default="http://127.0.0.1:8000")
BUSINESS_NAME = env("BUSINESS_NAME", default="Example Services")
BUSINESS_ADDRESS = env("BUSINESS_ADDRESS", default="")
VAULT_KEYS = env.list("VAULT_KEYS", default=["dev:" + "A" * 43 + "="])
CRM_PROVIDER = env("CRM_PROVIDER", default="mock")
CRM_BASE_URL = env("CRM_BASE_URL", default="")
CRM_API_KEY = env("CRM_API_KEY", default="")
CHAT = env("CHAT", default="console")
ESCALATIONS_CHANNEL = env("ESCALATIONS_CHANNEL", default="#escalations")
DEFAULT_FROM_EMAIL = env("DEFAULT_FROM_EMAIL", default="office@example.test")
PLUGINS = env.list("PLUGINS", default=[])

# The engine; all times in seconds. call < deadline < lease < Celery's limits (a system check says so).
ENGINE_LEASE = env.float("ENGINE_LEASE", default=60.0)
ENGINE_DEADLINE = env.float("ENGINE_DEADLINE", default=45.0)
ENGINE_SWEEP = env.float("ENGINE_SWEEP", default=15.0)
ENGINE_SLICE = env.float("ENGINE_SLICE", default=60.0)
ENGINE_SLICE_STEPS = env.int("ENGINE_SLICE_STEPS", default=20_000)
ENGINE_THREADS = env.int("ENGINE_THREADS", default=16)
ENGINE_BATCH = env.int("ENGINE_BATCH", default=100)
ENGINE_RETRY_WAITS = [float(w) for w in env.list("ENGINE_RETRY_WAITS", default=["2", "4", "8"])]
ENGINE_CRASH = env("SOP_CRASH", default="")
