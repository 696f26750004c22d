"""SOPs as data: read from YAML, checked, kept in rows, published as versions."""

from tasks.definition.check import obstacles, read, validate
from tasks.definition.records import (
    DefinitionError,
    Problem,
    SopDef,
    StepDef,
    from_json,
    to_json,
)
from tasks.definition.shipped import read_file, shipped
from tasks.definition.store import disable, from_rows, publish, save_rows
from tasks.definition.yamlfile import dump

__all__ = [
    "DefinitionError",
    "Problem",
    "SopDef",
    "StepDef",
    "disable",
    "dump",
    "from_json",
    "from_rows",
    "obstacles",
    "publish",
    "read",
    "read_file",
    "save_rows",
    "shipped",
    "to_json",
    "validate",
]
