"""`manage.py crm`: look at the CRM, test it, hold it, and serve a mock of one."""

import argparse
import getpass
import json
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from crm import health
from crm.access import access_for
from crm.breaker import Standing, in_words, why
from crm.check import Check, Login, Step, login_in_force
from crm.mock.oauth import OAuthServer, running
from crm.mock.scenario import FAULTS_HELP, HELP, Fault, Scenario, ScenarioError, fault_named, read_scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.records import ENTITIES, Record, plain
from crm.service import CrmService, open_service
from sopengine import arguments, clock
from sopengine.errors import StepError

SERVICE = "crm"
SHOWN = {
    "customers": ("id", "name", "status", "city", "services", "last_service_date"),
    "invoices": ("id", "number", "customer_id", "amount_due", "currency", "due_date", "status"),
    "quotes": ("id", "number", "customer_id", "total", "currency", "status", "sent_at"),
    "appointments": ("id", "customer_id", "start", "type", "status"),
}


class Command(BaseCommand):
    help = "Look at the CRM, test it, hold and release it, and serve a mock of one."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

        check = verbs.add_parser(
            "check", help="test the way to the CRM step by step; ends with 1 if a step fails"
        )
        check.add_argument(
            "--write",
            action="store_true",
            help="also create one self-test record, or use the one made before, note on it, change it",
        )
        check.add_argument("--json", action="store_true")

        query = verbs.add_parser("query", help="list records: crm query customers status=past city=Edina")
        query.add_argument(
            "words",
            nargs="*",
            metavar="[ENTITY] NAME=VALUE",
            help="customers, invoices, quotes, ...; filters, several values as a,b",
        )
        query.add_argument("--limit", type=arguments.limit, default=25, help="at most so many records (25)")
        query.add_argument("--json", action="store_true")

        status = verbs.add_parser(
            "status", help="say which CRM is set, what it can do, whether it answers, and with which login"
        )
        status.add_argument("--json", action="store_true")

        hold = verbs.add_parser("hold", help="make no more calls to the CRM until it is released")
        hold.add_argument("--note", default="", help="why, for the others")
        hold.add_argument("--by", default="", help="who does it (the name of the login here)")
        release = verbs.add_parser("release", help="let calls through again, slowly at first")
        release.add_argument("--by", default="", help="who does it (the name of the login here)")

        serve = verbs.add_parser(
            "serve-mock",
            help="serve a mock CRM over HTTP on 127.0.0.1",
            description="Serve a mock CRM over the REST contract; every request is told at /_journal.\n"
            "Use it with CRM_PROVIDER=rest, CRM_BASE_URL=<its address> and any CRM_API_KEY.",
            epilog=f"{FAULTS_HELP}\n{HELP}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        serve.add_argument(
            "--port", type=arguments.port_or_free, default=8100, help="0 takes a free one (8100)"
        )
        serve.add_argument(
            "--customers",
            type=arguments.count,
            default=12,
            help="so many past customers, and a third as many others; 0: an empty CRM (12)",
        )
        serve.add_argument(
            "--latency", type=arguments.milliseconds, default=0.0, metavar="MS", help="each answer waits (0)"
        )
        serve.add_argument(
            "--oauth", action="store_true", help="take only tokens of a login server that it starts beside it"
        )
        serve.add_argument(
            "--rows", type=Path, metavar="FILE", help="keep its rows in this file (else they end with it)"
        )
        serve.add_argument("--scenario", type=Path, metavar="FILE", help="rows and faults, see below")
        serve.add_argument(
            "--fault",
            type=_fault,
            action="append",
            default=[],
            metavar="NAME[=VALUE][@PATTERN]",
            help="misbehave, to rehearse an outage: see below",
        )

    def handle(self, *_args: Any, verb: str, **options: Any) -> None:
        do = {
            "check": self._check,
            "query": self._query,
            "status": self._status,
            "hold": self._hold,
            "release": self._release,
            "serve-mock": self._serve_mock,
        }[verb]
        try:
            do(options)
        except StepError as error:
            raise CommandError(f"{error.message} [{error.reason}]") from None

    # -- check -------------------------------------------------------------------------------------

    def _check(self, options: dict[str, Any]) -> None:
        steps: list[Step] = []
        if not options["json"] and settings.CRM_PROVIDER == "mock":
            self.stdout.write("CRM mock (invented data)")
        for step in Check(write=options["write"]).steps():
            steps.append(step)
            if not options["json"]:
                code = f" [{step.code}]" if step.code else ""
                self.stdout.write(f"{step.number}. {step.name}: {step.result}. {step.text}{code}")
        bad = [step.name for step in steps if step.result == "failed"]
        if options["json"]:
            shown = [asdict(step) for step in steps]
            self._print_json({**_set(), "ok": not bad, "steps": shown})
        if bad:
            raise CommandError(f"The CRM did not pass: {', '.join(bad)} failed.")
        if not options["json"]:
            self.stdout.write("Every step that was made passed.")

    # -- hold and release --------------------------------------------------------------------------

    def _hold(self, options: dict[str, Any]) -> None:
        if not health.hold(SERVICE, _who(options), options["note"]):
            raise CommandError(f"The CRM {_state(health.standing(SERVICE, fresh=True))} already.")
        self.stdout.write("Held: no call is made until `crm release`; runs that need the CRM wait.")

    def _release(self, options: dict[str, Any]) -> None:
        if not health.release(SERVICE, _who(options)):
            raise CommandError("There is nothing to release: calls to the CRM are made as usual.")
        self.stdout.write("Released: calls are made again, slowly at first; waiting runs go on.")

    # -- query -------------------------------------------------------------------------------------

    def _query(self, options: dict[str, Any]) -> None:
        crm = open_service(guarded=False)
        entity, filters = _entity_and_filters(options["words"])
        listing = getattr(crm, entity).query(**filters)
        records: list[Record] = list(islice(listing, options["limit"]))
        rows = [plain(record) for record in records]
        if options["json"]:
            self._print_json({**_which(crm), entity: rows})
            return
        self.stdout.write(f"{_title(crm)}: {len(rows)} {entity}")
        for row in rows:
            names = SHOWN.get(entity, tuple(row))
            self.stdout.write("  " + "  ".join(_shown(row[name]) for name in names))
        if len(rows) == options["limit"]:
            self.stdout.write(f"There may be more; this is the limit of {options['limit']}.")

    # -- status ------------------------------------------------------------------------------------

    def _status(self, options: dict[str, Any]) -> None:
        crm = open_service(guarded=False)
        problem: StepError | None = None
        try:
            crm.ping()
        except StepError as error:
            problem = error
        line = health.standing(SERVICE, fresh=True)
        login = None if crm.is_mock else login_in_force(SERVICE)
        report = {
            **_which(crm),
            "host": urlsplit(settings.CRM_BASE_URL).hostname if not crm.is_mock else None,
            "answers": problem is None,
            "problem": problem and problem.message,
            "ms": crm.calls[-1].ms if crm.calls else None,
            "keys_kept_hours": crm.idempotency,
            "health": _health(line),
            "login": login and asdict(login),
            "can": {
                entity: {"verbs": sorted(can.verbs), "filters": sorted(can.filters)}
                for entity, can in sorted(crm.provider.can.items())
            },
        }
        if options["json"]:
            self._print_json(report)
        else:
            self._print_status(crm, report, line, login)
        if problem:
            raise CommandError(f"The CRM does not answer as it should: {problem.message} [{problem.reason}]")

    def _print_status(
        self, crm: CrmService, report: dict[str, Any], line: Standing, login: Login | None
    ) -> None:
        where = f" at {report['host']}" if report["host"] else ""
        answers = f"answers in {report['ms']} ms" if report["answers"] else "does not answer"
        self.stdout.write(f"{_title(crm)}{where}: {answers}")
        self.stdout.write(f"  Calls: {_calls(line)}")
        for sentence in (_last(line), _login(crm, login)):
            self.stdout.write(f"  {sentence}")
        for entity, able in report["can"].items():
            by = f", by {', '.join(able['filters'])}" if able["filters"] else ""
            self.stdout.write(f"  {entity}: {', '.join(able['verbs'])}{by}")

    # -- serve-mock --------------------------------------------------------------------------------

    def _serve_mock(self, options: dict[str, Any]) -> None:
        try:
            scenario = read_scenario(options["scenario"]) if options["scenario"] else Scenario()
            scenario.faults = [*options["fault"], *scenario.faults]
            server = MockServer(
                MockState(str(options["rows"] or ""), customers=options["customers"]),
                options["port"],
                options["latency"] / 1000,
                scenario,
            )
        except ScenarioError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"Port {options['port']} cannot be used: {error.strerror}") from None
        count = len(server.state.rows("customers"))
        try:
            with ExitStack() as stack:
                if options["oauth"]:
                    login = stack.enter_context(running(OAuthServer()))
                    server.contract.tokens = login.accepts
                    self.stdout.write(_login_settings(login))
                self.stdout.write(f"The mock CRM with {count} customers listens on {server.url}")
                self.stdout.flush()
                server.serve_forever()
        except KeyboardInterrupt:
            self.stdout.write("The mock CRM has ended.")
        finally:
            server.server_close()

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, ensure_ascii=False, indent=2))


def _login_settings(login: OAuthServer) -> str:
    """Return the settings with which the product logs in at this server."""
    return "\n".join(
        [
            "To log in to it, run the product with:",
            "  CRM_AUTH=oauth",
            f"  CRM_OAUTH_AUTHORIZE_URL={login.authorize_url}",
            f"  CRM_OAUTH_TOKEN_URL={login.token_url}",
            f"  CRM_OAUTH_CLIENT_ID={login.client_id}",
            f"  CRM_OAUTH_CLIENT_SECRET={login.client_secret}",
            "and press Connect in the admin, under Logins to other systems.",
        ]
    )


def _entity_and_filters(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the entity, customers where none is named, and the filters given as name=value."""
    if not words or "=" in words[0]:
        return "customers", _filters(words)
    if words[0] not in ENTITIES:
        raise CommandError(f"there are no {words[0]!r} in a CRM; there are: {', '.join(ENTITIES)}")
    return words[0], _filters(words[1:])


def _filters(given: list[str]) -> dict[str, Any]:
    """Return the filters given as name=value."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(f"{text!r} is no filter; expected name=value, such as status=past")
        if name in found:
            raise CommandError(f"the filter {name} is given twice; several values go as {name}=a,b")
        found[name] = value
    return found


def _which(crm: CrmService) -> dict[str, Any]:
    return {"provider": crm.provider_name, "mock": crm.is_mock}


def _set() -> dict[str, Any]:
    return {"provider": settings.CRM_PROVIDER, "mock": settings.CRM_PROVIDER == "mock"}


def _fault(text: str) -> Fault:
    try:
        return fault_named(text)
    except ScenarioError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _who(options: dict[str, Any]) -> str:
    """Return who holds or releases: the name given, else that of the login at this machine."""
    if options["by"]:
        return str(options["by"])
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        return "staff"


def _state(line: Standing) -> str:
    return in_words(line, clock.now())


def _calls(line: Standing) -> str:
    """Return in words whether calls are made."""
    if line.may_call:
        failures = f", {line.failures} of the last failed" if line.failures else ""
        return f"made as usual{failures}"
    return f"none are made: the CRM {_state(line)}"


def _last(line: Standing) -> str:
    """Return in words what is known of the last calls."""
    answered = f"Last answer {_time(line.last_ok_at)}" if line.last_ok_at else "No answer yet"
    failed = f"last failure {_time(line.last_failed_at)}: {why(line.last_code)}"
    left = "" if line.rate_left is None else f"; {line.rate_left} calls left of its limit"
    return f"{answered}; {failed if line.last_failed_at else 'no failure yet'}{left}."


def _login(crm: CrmService, login: Login | None) -> str:
    """Return in words which login is in force."""
    if crm.is_mock:
        return "No login: the mock needs none."
    if login is None:
        return access_for(SERVICE).missing()
    if login.source != "stored":
        return f"The login comes from the setting {login.source}."
    ends = f", until {login.expires_at}" if login.expires_at else ""
    refused = f", refused {login.refused_at}" if login.refused_at else ""
    return f"The login in force is {login.masked}, {login.status}{ends}{refused}."


def _health(line: Standing) -> dict[str, Any]:
    """Return the standing as it goes into JSON: times in ISO 8601."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in {**asdict(line), "may_call": line.may_call}.items()
    }


def _time(moment: datetime | None) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}" if moment else "never"


def _title(crm: CrmService) -> str:
    return "CRM mock (invented data)" if crm.is_mock else f"CRM {crm.provider_name}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    return "-" if value is None else str(value)
