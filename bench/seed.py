"""Fill a database for one round: publish a SOP, add finished and due tasks. Prints the version's id.

python -m bench.seed SHAPE DUE [FINISHED]     SHAPE: noop, once, find
"""

import sys

import django

django.setup()

from django.db import connection, transaction  # noqa: E402 - the models need the setup above

from sopengine import clock  # noqa: E402
from tasks.models import Sop, SopVersion  # noqa: E402

SHAPES = {
    "noop": [{"key": f"s{n}", "handler": "bench.noop"} for n in range(1, 6)],
    "once": [{"key": f"s{n}", "handler": "bench.once"} for n in range(1, 4)],
    "find": [
        {"key": f"s{n}", "handler": "crm.find", "with": {"customer_id": f"cus_{n:04d}"}} for n in range(1, 6)
    ],
}
# As journal.insert_tasks leaves them, made inside the database so that a million takes seconds.
ROWS = """
INSERT INTO tasks_task (id, version_id, status, step, visit, retries, crashes, seq, wake_at, waiting_for, mailbox,
  result, reason, priority, context, progress, created_at, finished_at)
SELECT gen_random_uuid(), %(version)s, %(status)s, 's1', 1, 0, 0, 1, CASE WHEN %(status)s = 'ready' THEN now() END,
  '', '[]', '', '', 1, '{}', '{"visits": {"s1": 1}}', now(), CASE WHEN %(status)s = 'ready' THEN NULL ELSE now() END
FROM generate_series(1, %(count)s)
"""
BORN = """
INSERT INTO tasks_taskevent (task_id, seq, kind, step, status, at, data)
SELECT id, 1, 'created', 's1', 'ready', now(), '{}' FROM tasks_task WHERE version_id = %(version)s AND status = 'ready'
"""


def main(shape: str, due: int, finished: int = 0) -> None:
    """Write the rows."""
    slug = f"{shape}-{Sop.objects.count()}"
    sop = Sop.objects.create(slug=slug, name=slug, state=Sop.State.ACTIVE)
    version = SopVersion.objects.create(
        sop=sop,
        number=1,
        published_at=clock.now(),
        definition={"sop": slug, "name": slug, "steps": SHAPES[shape]},
    )
    with connection.cursor() as cursor:
        with transaction.atomic():
            cursor.execute(ROWS, {"version": version.pk, "status": "completed", "count": finished})
            cursor.execute(ROWS, {"version": version.pk, "status": "ready", "count": due})
            cursor.execute(BORN, {"version": version.pk})
        cursor.execute("VACUUM (ANALYZE) tasks_task")
        cursor.execute("CHECKPOINT")
    print(version.pk)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
