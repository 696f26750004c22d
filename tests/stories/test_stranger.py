"""A stranger adds a handler, a CRM provider and a chat transport: each is one new file, and no other edit."""

import json
from pathlib import Path

import pytest

from tests.processes import eventually, manage, product_environment

HANDLER = '''
"""A handler: one file, one function."""

from pydantic import BaseModel

from tasks.outcome import Done, Notice, Open, Outcome, StepRun, handler


class Greeting(BaseModel):
    """What was said."""

    length: Open[int]


@handler("parrot.greet", crm=True, results=Greeting)
def greet(step: StepRun, *, words: str, times: int = 1) -> Outcome:
    """Say the words to a customer, through a note in the CRM."""
    said = " ".join([words] * times)
    step.crm.note(step.context["crm_customer_id"], said, key=step.key("note"))
    notice = Notice(text=f"The parrot spoke {times} times.", channel=step.channel)
    return Done(values={"length": len(said)}, result="greeted", notify=(notice,))
'''
PROVIDER = '''
"""A CRM product: one file, one class. Its rows are in a JSON file."""

import json
from pathlib import Path

from django.conf import settings

from crm.mapping import FieldMap, FieldMaps
from crm.provider import Can, Provider, Rows, providers

FILE = Path(__file__).parent / "cabinet.json"
FIELDS = {
    "customers": [("name", "FullName"), ("status", "Kind"), ("city", "Town")],
    "notes": [("customer_id", "Customer"), ("text", "Words")],
}
MAPS = FieldMaps(
    "cabinet",
    {
        entity: [
            FieldMap(field="id", provider="Number", direction="in", required=True),
            *(FieldMap(field=ours, provider=theirs) for ours, theirs in pairs),
        ]
        for entity, pairs in FIELDS.items()
    },
    __name__,
)


@providers.register("cabinet")
class Cabinet(Provider):
    """A filing cabinet."""

    name = "cabinet"
    maps = MAPS
    can = {"customers": Can({"query", "find"}, {"status"}), "notes": Can({"create"})}

    def list_rows(self, entity, filters, cursor):
        wanted = set(filters.get("status", ()))
        return Rows([row for row in self._rows() if not wanted or row["Kind"] in wanted])

    def find_row(self, entity, record_id):
        return next((row for row in self._rows() if row["Number"] == record_id), None)

    def create_row(self, entity, row, key):
        content = json.loads(FILE.read_text())
        made = {**row, "Number": f"N{len(content['notes']) + 1}"}
        content["notes"].append({**made, "Key": key})
        FILE.write_text(json.dumps(content))
        return made

    def _rows(self):
        return json.loads(FILE.read_text())["customers"]
'''
TRANSPORT = '''
"""A chat product: one file, one class."""

from pathlib import Path

from tasks.transports import Message, Transport, transports


@transports.register("blackboard")
class Blackboard(Transport):
    """Write on a blackboard."""

    def post(self, message: Message) -> str:
        with (Path(__file__).parent / "board.txt").open("a") as board:
            board.write(f"{message.channel} {message.text}\\n")
        return "chalk"
'''
SOP = """
sop: parrot
name: The parrot greets
channel: "#cage"
inputs: {crm_customer_id: {type: string}}
steps:
  - {key: find, handler: crm.find, with: {customer_id: "{{ crm_customer_id }}"}}
  - {key: greet, handler: parrot.greet, with: {words: "Hello {{ customer_name }}!", times: 2}}
"""
PEOPLE = {
    "customers": [{"Number": "A1", "FullName": "Ann Bird", "Kind": "past", "Town": "Edina"}],
    "notes": [],
}


def test_a_handler_a_provider_and_a_transport_are_one_new_file_each(tmp_path: Path) -> None:
    plugin = tmp_path / "pets"
    plugin.mkdir()
    (tmp_path / "parrot.yaml").write_text(SOP)
    for name, content in {
        "__init__.py": "",
        "parrot.py": HANDLER,
        "cabinet.py": PROVIDER,
        "blackboard.py": TRANSPORT,
        "cabinet.json": json.dumps(PEOPLE),
    }.items():
        (plugin / name).write_text(content)
    environment = product_environment(
        f"sqlite:///{tmp_path / 'engine.sqlite3'}",
        PLUGINS="pets",
        PYTHONPATH=str(tmp_path),
        CRM_PROVIDER="cabinet",
        CHAT="blackboard",
        EMAIL_FOLDER=str(tmp_path / "mail"),
    )

    manage(environment, "migrate", "--verbosity", "0")
    manage(environment, "check")
    manage(environment, "sop", "import", "--publish", str(tmp_path / "parrot.yaml"))
    run = manage(environment, "sop", "run", "parrot", "--set", "crm_customer_id=A1").split()[-1]
    manage(environment, "engine", "drain")
    told = json.loads(manage(environment, "task", "show", run, "--json"))
    assert (told["status"], told["result"]) == ("completed", "greeted"), told["timeline"]
    notes = json.loads((plugin / "cabinet.json").read_text())["notes"]
    assert [(note["Customer"], note["Words"]) for note in notes] == [
        ("A1", "Hello Ann Bird! Hello Ann Bird!")
    ]
    board = plugin / "board.txt"
    eventually(board.exists, 5, what="the transport was asked to post")
    assert board.read_text() == "#cage The parrot spoke 2 times.\n"


def test_without_the_plugin_the_same_procedure_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "parrot.yaml").write_text(SOP)
    environment = product_environment(f"sqlite:///{tmp_path / 'engine.sqlite3'}")
    with pytest.raises(AssertionError, match=r"parrot\.greet"):
        manage(environment, "sop", "validate", str(tmp_path / "parrot.yaml"))
