"""Bare Celery: a task that does nothing, with the settings this project gives Celery."""

import os

from celery import Celery

app = Celery("noop", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_default_queue="bench-noop",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    task_acks_late=False,
)


@app.task(name="noop", ignore_result=True)
def noop() -> None:
    """Do nothing."""
