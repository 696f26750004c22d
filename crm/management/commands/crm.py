"""`manage.py crm`: look at the CRM, and serve a mock of one."""

import json
from argparse import RawDescriptionHelpFormatter
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from crm.mock.scenario import HELP, Scenario, ScenarioError, read_scenario
from crm.mock.server import MockServer
from crm.mock.state import MockState
from crm.records import ENTITIES, Record, plain
from crm.service import CrmService, open_service
from sopengine import arguments
from sopengine.errors import StepError

SHOWN = {
    "customers": ("id", "name", "status", "city", "services", "last_service_date"),
    "invoices": ("id", "number", "customer_id", "amount_due", "currency", "due_date", "status"),
    "quotes": ("id", "number", "customer_id", "total", "currency", "status", "sent_at"),
    "appointments": ("id", "customer_id", "start", "type", "status"),
}


class Command(BaseCommand):
    help = "Look at the CRM, and serve a mock of one."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="query|status|serve-mock")

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
            "status", help="say which CRM is set, what it can do, and whether it answers"
        )
        status.add_argument("--json", action="store_true")

        serve = verbs.add_parser(
            "serve-mock",
            help="serve a mock CRM over HTTP on 127.0.0.1",
            description="Serve a mock CRM over the REST contract; every request is told at /_journal.\n"
            "Use it with CRM_PROVIDER=rest, CRM_BASE_URL=<its address> and any CRM_API_KEY.",
            epilog=HELP,
            formatter_class=RawDescriptionHelpFormatter,
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
        serve.add_argument("--latency", type=float, default=0.0, metavar="MS", help="each answer waits (0)")
        serve.add_argument("--scenario", type=Path, metavar="FILE", help="rows and faults, see below")

    def handle(self, *_args: Any, verb: str, **options: Any) -> None:
        try:
            {"query": self._query, "status": self._status, "serve-mock": self._serve_mock}[verb](options)
        except StepError as error:
            raise CommandError(f"{error.message} [{error.reason}]") from None

    # -- query -------------------------------------------------------------------------------------

    def _query(self, options: dict[str, Any]) -> None:
        crm = open_service()
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
        crm = open_service()
        problem: StepError | None = None
        try:
            crm.ping()
        except StepError as error:
            problem = error
        able = {
            entity: {"verbs": sorted(can.verbs), "filters": sorted(can.filters)}
            for entity, can in sorted(crm.provider.can.items())
        }
        report = {
            **_which(crm),
            "host": urlsplit(settings.CRM_BASE_URL).hostname if not crm.is_mock else None,
            "answers": problem is None,
            "problem": problem and problem.message,
            "ms": crm.calls[-1].ms,
            "keys_kept_hours": crm.idempotency,
            "can": able,
        }
        if options["json"]:
            self._print_json(report)
        else:
            self._print_status(crm, report)
        if problem:
            raise CommandError(f"The CRM does not answer as it should: {problem.message} [{problem.reason}]")

    def _print_status(self, crm: CrmService, report: dict[str, Any]) -> None:
        where = f" at {report['host']}" if report["host"] else ""
        answers = f"answers in {report['ms']} ms" if report["answers"] else "does not answer"
        self.stdout.write(f"{_title(crm)}{where}: {answers}")
        for entity, able in report["can"].items():
            by = f", by {', '.join(able['filters'])}" if able["filters"] else ""
            self.stdout.write(f"  {entity}: {', '.join(able['verbs'])}{by}")

    # -- serve-mock --------------------------------------------------------------------------------

    def _serve_mock(self, options: dict[str, Any]) -> None:
        try:
            scenario = read_scenario(options["scenario"]) if options["scenario"] else Scenario()
            server = MockServer(
                MockState(customers=options["customers"]),
                options["port"],
                options["latency"] / 1000,
                scenario,
            )
        except ScenarioError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"Port {options['port']} cannot be used: {error.strerror}") from None
        count = len(server.state.rows("customers"))
        self.stdout.write(f"The mock CRM with {count} customers listens on {server.url}")
        self.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            self.stdout.write("The mock CRM has ended.")
        finally:
            server.server_close()

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, ensure_ascii=False, indent=2))


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


def _title(crm: CrmService) -> str:
    return "CRM mock (invented data)" if crm.is_mock else f"CRM {crm.provider_name}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    return "-" if value is None else str(value)
