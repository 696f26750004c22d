"""What a firm has still to do at an hour, by name. It is at rest when that is nothing.

A look trusts nobody to have looked before: what a drain, a sweep or a pump will see to is named from the
moment it stands in the database until what comes of it stands there. Both happen in one transaction,
or what comes of it is written first. So one look is enough, however slow the machine is.
"""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tasks import crm_line, folding, outbox, summary, triggers
from tests.faults.desk import Row

SCHEDULES = """
SELECT s.slug, s.cursor, (v.definition -> 'trigger')::text AS trigger
FROM tasks_sop s JOIN tasks_sopversion v ON v.id = s.published_id
WHERE s.state = 'active' AND s.cursor IS NOT NULL
"""
OPEN = "('ready', 'running', 'waiting', 'paused')"
# A run that moves, or whose hour, letter, children or parent let it move; or whose values are kept too long.
RUNS = f"""
SELECT 'run of ' || s.slug || ', ' || t.step || ', ' || t.status || ' ' || t.waiting_for AS what
FROM tasks_task t JOIN tasks_sopversion v ON v.id = t.version_id JOIN tasks_sop s ON s.id = v.sop_id
LEFT JOIN tasks_task p ON p.id = t.parent_id
WHERE t.status IN ('running', 'ready') OR t.wake_at <= {{now}} OR t.scrub_at <= {{now}}
  OR (t.status IN {OPEN} AND p.status = 'cancelled')
  OR (t.status = 'waiting' AND (
    t.mailbox::text <> '[]'
    OR (t.waiting_for = 'children' AND t.wake_at IS NULL AND NOT EXISTS (
      SELECT 1 FROM tasks_task c WHERE c.parent_id = t.id AND c.status IN {OPEN}))
    OR (t.waiting_for = 'listing' AND (p.waiting_for = 'children' OR p.status = 'completed'))
    OR (t.waiting_for LIKE 'provider:%' AND t.wake_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM crm_health WHERE state <> 'answers'))))
"""
# A message that is being posted, has its place in the line of its channel, or takes that of such a one,
# has an hour within the lease of whoever posts it. What waits to be counted has a longer one.
MESSAGES = f"""
SELECT 'message of kind ' || n.kind || ' to ' || n.medium || ' ' || n.channel || ' ' || n.reason
FROM tasks_notification n LEFT JOIN tasks_notification o ON o.id = n.replaces_id
WHERE n.state = 'pending'
  AND NOT (n.medium = '{{down}}'
    AND EXISTS (SELECT 1 FROM tasks_pulse WHERE name = n.medium || ':away' AND at > {{now}}))
  AND (n.wake_at <= {{now}} OR (n.wake_at <= {{soon}}
    AND NOT (n.attempts = 0 AND n.reason = '{folding.FOLDING}')
    AND NOT (n.replaces_id IS NOT NULL AND o.state = 'pending' AND o.reason = '{folding.FOLDING}')))
UNION ALL SELECT 'text of a message that is kept too long' FROM tasks_notification
WHERE sealed IS NOT NULL AND created_at < '{{week_ago}}'
UNION ALL SELECT 'question that nobody was told of' FROM tasks_approval
WHERE state = 'open' AND message_id IS NULL
UNION ALL SELECT 'summary of the day' WHERE EXISTS (SELECT 1 FROM tasks_task WHERE created_at <= '{{day}}')
  AND NOT EXISTS (SELECT 1 FROM tasks_notification WHERE dedupe = '{{summary}}')
"""
DELIVERIES = """
SELECT 'delivery from ' || source || ' ' || reason FROM sopengine_delivery WHERE state = 'received'
"""
# Of a CRM that comes and goes within five minutes staff are told when it lasts.
CRM = """
SELECT 'try of the ' || service FROM crm_health WHERE state IN ('silent', 'pausing') AND until <= {now}
UNION ALL SELECT 'news of the ' || h.service FROM crm_health h WHERE generation > told
  AND NOT (state = 'silent' AND since > '{lately}' AND coalesce((
    SELECT dedupe LIKE '%:answers' AND created_at > h.since - interval '5 minutes' FROM tasks_notification
    WHERE dedupe LIKE 'line:' || h.service || ':%' ORDER BY created_at DESC LIMIT 1), false))
"""
ROWS = "UNION ALL".join((RUNS, MESSAGES, DELIVERIES, CRM))


def due(sql: Callable[[str], list[Row]], offset: float, *, down: str = "") -> Counter[str]:
    """Return what is to be done and is not done yet, all of it at one moment.

    The clocks of the firm are `offset` seconds ahead.
    `down` is the medium that is away because the test wants it so: what waits for it is not due. Who
    did not answer on a slow machine in time is tried again, and that is waited for.
    """
    now = datetime.now(UTC) + timedelta(seconds=offset)
    # First the schedules: the cursor of one moves with the start of its run.
    found = Counter(f"slot of {row['slug']}" for row in sql(SCHEDULES) if _has_come(row, now))
    return found + Counter(row["what"] for row in sql(ROWS.format(down=down, **_moments(now, offset))))


def _has_come(schedule: Row, now: datetime) -> bool:
    slot = triggers.next_slot(json.loads(schedule["trigger"] or "{}"), schedule["cursor"])
    return slot is not None and slot <= now


def _moments(now: datetime, offset: float) -> dict[str, str]:
    day = summary.day_before(now).ends
    # The clock of the database, read after its rows: a look that came late must not miss who was quicker.
    clock = f"(clock_timestamp() + interval '{offset} seconds')"
    lease = outbox.LEASE.total_seconds()
    return {
        "now": clock,
        "soon": f"({clock} + interval '{lease} seconds')",
        "lately": (now - crm_line.FLAPPING).isoformat(),
        "week_ago": (now - outbox.KEEPS).isoformat(),
        "day": day.isoformat(),
        "summary": f"summary:{day:%Y-%m-%d}",
    }
