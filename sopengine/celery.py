"""The Celery application: where wake-ups arrive. The work itself is in the database."""

import os
from typing import Any

from celery import Celery, bootsteps, signals
from django.conf import settings

from sopengine import broker
from tasks import shutdown

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sopengine.settings")

broker.use()
app = Celery("sopengine", include=["tasks.sweep"])
app.config_from_object("django.conf:settings", namespace="CELERY")


class SweepTimer(bootsteps.StartStopStep):
    """Each worker asks for a sweep now and then, so that a dead beat is harmless."""

    requires = {"celery.worker.components:Timer", "celery.worker.components:Pool"}

    def __init__(self, worker: Any, **_options: Any) -> None:
        self.entry: Any = None

    def start(self, worker: Any) -> None:
        """Begin to ask."""
        period = settings.ENGINE_SWEEP
        self.entry = worker.timer.call_repeatedly(period, _ask_for_sweep, (period,))

    def stop(self, worker: Any) -> None:
        """Ask no more."""
        if self.entry is not None:
            self.entry.cancel()


def _ask_for_sweep(period: float) -> None:
    with app.connection_for_write() as connection:
        app.send_task(
            "engine.sweep", expires=max(period, 1.0), ignore_result=True, retry=False, connection=connection
        )


app.steps["worker"].add(SweepTimer)


signals.worker_shutting_down.connect(shutdown.ask)
signals.worker_ready.connect(shutdown.hear_first)
