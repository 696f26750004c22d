"""Beat's own part: its sign of life, and its look for the workers. Only the beat process loads this."""

import logging
from typing import Any

from celery.beat import Scheduler
from django.db import DatabaseError, connection

from tasks import journal, watch

log = logging.getLogger(__name__)


class Beat(Scheduler):
    """Celery's scheduler, which leaves a sign of life whenever it has asked for a sweep."""

    def setup_schedule(self) -> None:
        """Begin: from now on the workers are looked for."""
        super().setup_schedule()
        watch.Lookout().start()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Ask for the sweep, and note that beat is there, whether or not the broker took it."""
        super().apply_entry(entry, producer=producer)
        try:
            watch.note_beat()
        except DatabaseError as error:
            log.warning("beat's sign of life was not noted: %s", journal.sqlstate(error))
        finally:
            connection.close()  # beat needs it for a moment in each period, others all the time
