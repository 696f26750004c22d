"""The settings of the unit tests: those of the product, in development, with nothing shared."""

import os
import tempfile
from pathlib import Path

os.environ["DEBUG"] = "1"

from sopengine.settings import *  # noqa: F403
from sopengine.settings import DATABASES, LOGGING
from tests.leash import leash

_folder = Path(tempfile.mkdtemp(prefix="sop-unit-"))
leash.folder(_folder)

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, not memory: the threads of a drain have connections of their own. No crash of the
    # machine is tested here, so nothing waits for the disk.
    DATABASES["default"]["TEST"] = {"NAME": str(_folder / "unit.sqlite3")}
    DATABASES["default"]["OPTIONS"]["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"

CRM_MOCK_FILE = ""
# The tests run at any hour of any day: mail leaves at all of them. Tests of the windows set their own.
REVIEW_LINK = "https://reviews.example.com/us"
BUSINESS_ADDRESS = "1 Test Lane, Minneapolis, MN 55401"
SENDING_DAYS = tuple(range(7))
SENDING_HOURS = (0, 1440)
QUIET_HOURS = (0, 0)
HOLIDAYS: list[str] = []
EMAIL_FOLDER = EMAIL_FILE_PATH = str(_folder / "mail")
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
LOGGING = {**LOGGING, "loggers": {**LOGGING["loggers"], "django.request": {"level": "ERROR"}}}
