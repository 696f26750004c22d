"""Customers whose every value is marked: no mark may stand in clear anywhere, neither while runs are
under way, nor when they fail in each way that brings foreign words near us, nor afterwards.
"""

from collections.abc import Callable
from pathlib import Path

import yaml
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.faults.postoffice import PostOffice
from tests.length import AT_FULL_LENGTH
from tests.processes import eventually
from tests.servers import Postgres, Redis
from tests.stories.canaries import MARK, WORDS, Watch, look_and, person
from tests.stories.stage import CAMPAIGN, Stage

PEOPLE = 200
TROUBLED = 12

HANDLERS = '''
"""Steps that fail with a customer's name on their lips."""

from tasks.outcome import Done, Effect, Notice, Outcome, StepRun, handler


@handler("story.throw", calls=True)
def throw(step: StepRun) -> Outcome:
    """Fail with a bug, in a thread."""
    raise RuntimeError(f"no bird like {step.context['customer_name']} <{step.context['customer_email']}>")


@handler("story.stumble")
def stumble(step: StepRun) -> Outcome:
    """Fail with a bug, in the drain's own thread, after another error."""
    try:
        return {}[step.context["customer_phone"]]
    except KeyError as error:
        raise ValueError(f"{step.context['customer_city']} is no town") from error


@handler("story.long", effect=Effect.IDEMPOTENT)
def long(step: StepRun) -> Outcome:
    """Say more than the database takes."""
    said = Notice(step.context["customer_name"], channel="#" + "x" * 100)
    return Done(values={"said": step.context["customer_name"]}, notify=(said,))


@handler("story.forbidden")
def forbidden(step: StepRun) -> Outcome:
    """Say what a constraint of the database forbids."""
    return Done(values={"said": step.context["customer_name"]}, result="forbidden")
'''
TROUBLE = """
sop: {slug}
name: Trouble
inputs: {{crm_customer_id: {{type: string}}}}
steps:
  - {{key: find, handler: crm.find, with: {{customer_id: "{{{{ crm_customer_id }}}}"}}}}
  - {{key: trouble, handler: {handler}}}
"""
KINDS = ("throw", "stumble", "long", "forbidden")
FAULTS = [
    {"on": "GET */customers/cus_001", "call": "1-2", "status": 500, "body": WORDS},
    {"on": "GET */customers/cus_002", "call": "1-3", "status": 500, "body": WORDS},
    {"on": "GET */customers/cus_003", "status": 404, "body": WORDS},
    {"on": "GET */customers/cus_004", "status": 403, "body": WORDS},  # a 401 would hold everybody
    {"on": "GET */customers/cus_005", "status": 422, "body": WORDS},
    {"on": "GET */customers/cus_006", "body": f"<html>{WORDS}</html>"},
    {"on": "GET */customers/cus_007", "call": 1, "drop": "before"},
    {"on": "POST */customers/cus_008/notes", "call": 1, "drop": "after"},
    {"on": "POST */customers/cus_009/notes", "call": 1, "status": 503, "body": WORDS},
]
REFUSED = "zwitscher010@kanari.example"


class ChoosyOffice(PostOffice):
    """A mail server that refuses one customer, and names whom."""

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Refuse one address with its own words."""
        if address == REFUSED:
            return f"550 Kanari Zwitscher <{address}> does not live here"
        envelope.rcpt_tos.append(address)
        return "250 ok"


@AT_FULL_LENGTH  # what fails in each way; the weeks of all procedures are watched at any length
def test_no_value_of_a_customer_stands_in_clear_anywhere_at_any_time(
    stage: Callable[..., Stage], postgres: Postgres, redis_server: Redis, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugins" / "storyteller"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("")
    (plugin / "steps.py").write_text(HANDLERS)
    scenario = tmp_path / "scenario.yaml"
    people = [person(n, "past") for n in range(1, PEOPLE - TROUBLED + 1)]
    troubled = [person(n, "cold") for n in range(PEOPLE - TROUBLED + 1, PEOPLE + 1)]
    scenario.write_text(yaml.safe_dump({"customers": people + troubled, "faults": FAULTS}))

    with stage(ChoosyOffice(), PLUGINS="storyteller", PYTHONPATH=str(plugin.parent)) as firm:
        watch = Watch(firm, postgres, redis_server)
        firm.crm("--customers", "0", "--scenario", str(scenario))
        firm.publish_shipped()
        firm.machine()
        firm.desk.sql("ALTER TABLE tasks_task ADD CONSTRAINT story CHECK (result <> 'forbidden')")
        firm.let_monday_come()
        watch.look()
        waiting = "waiting_for LIKE 'approval:%' AND status = 'waiting'"
        eventually(
            lambda: look_and(watch, lambda: firm.count(waiting) == len(people) - 4), 90, what=firm.said
        )

        start_trouble(firm, tmp_path, [row["id"] for row in troubled])
        for number, question in enumerate(firm.questions()):
            firm.desk.answer(question["id"], "decline" if number % 5 == 0 else "approve")
            if number % 40 == 0:
                watch.look()
        eventually(lambda: look_and(watch, lambda: at_rest(firm)), 90, what=firm.said)

        what_became_of_it(firm, len(people))
        assert watch.looks >= 8
        assert watch.with_sealed >= 5
        firm.desk.sweep()
        finished_runs_hold_nothing(firm)
        watch.look()


def start_trouble(firm: Stage, folder: Path, customers: list[str]) -> None:
    """Start one run for each of these customers, each in one of four kinds of trouble."""
    files = []
    for kind in KINDS:
        files.append(folder / f"{kind}.yaml")
        files[-1].write_text(TROUBLE.format(slug=f"trouble-{kind}", handler=f"story.{kind}"))
    firm.manage("sop", "import", "--publish", *map(str, files))
    versions = {
        row["slug"]: row["published_id"] for row in firm.desk.sql("SELECT slug, published_id FROM tasks_sop")
    }
    for place, kind in enumerate(KINDS):
        inputs = [{"crm_customer_id": id_} for id_ in customers[place :: len(KINDS)]]
        firm.desk.start(versions[f"trouble-{kind}"], inputs)


def at_rest(firm: Stage) -> bool:
    """Tell whether everything has ended or waits for somebody, but for the one whose CRM is down.

    The second notes wait days for an answer.
    """
    held = "(waiting_for LIKE 'provider:%' OR waiting_for = 'event')"
    return firm.count(f"status IN ('ready', 'running') OR (wake_at <= now() AND NOT {held})") == 0 and (
        firm.count(f"status = 'waiting' AND NOT {held} AND parent_id IS NOT NULL") == 0
    )


def what_became_of_it(firm: Stage, people: int) -> None:
    """The failures that were arranged are those that happened; the marks did travel."""
    stopped = {row["reason"]: row["n"] for row in firm.desk.sql(
        "SELECT reason, count(*) AS n FROM tasks_task WHERE status = 'paused' GROUP BY reason")}  # fmt: skip
    assert stopped.pop("bug") == 2 * TROUBLED // len(KINDS)
    assert stopped.pop("refused") == 2 * TROUBLED // len(KINDS)
    assert stopped.pop("forbidden") == 1
    assert stopped.pop("http_422") == 1
    assert stopped.pop("mail_recipient", 0) <= 1  # whether it was approved depends on its place
    assert sum(stopped.values()) == 1, stopped  # the page that was not JSON
    assert firm.count("result = 'customer_gone'") == 1
    assert firm.count("waiting_for LIKE 'provider:%'") == 0
    assert len(firm.post.letters) > people / 2
    assert all(MARK.search(str(letter["To"])) for letter in firm.post.letters)


def finished_runs_hold_nothing(firm: Stage) -> None:
    """Of a run that is over nothing sealed is kept, nor of its questions and messages."""
    over = "SELECT id FROM tasks_task WHERE status IN ('completed', 'cancelled')"
    assert firm.count("status = 'completed' AND parent_id IS NOT NULL") > PEOPLE / 2
    assert firm.count(f"id IN ({over}) AND (sealed IS NOT NULL OR request IS NOT NULL)") == 0
    for table in ("approval", "notification"):
        kept = f"SELECT count(*) AS n FROM tasks_{table} WHERE sealed IS NOT NULL AND task_id IN ({over})"
        assert firm.desk.sql(kept)[0]["n"] == 0, table
    assert firm.count(f"parent_id IS NULL AND status <> 'waiting' AND id NOT IN ({over})") == TROUBLED, (
        CAMPAIGN
    )
