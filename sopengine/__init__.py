"""The project; the Celery application is made with it, so that a web process can send wake-ups."""

from sopengine.celery import app

__all__ = ["app"]
