"""The SOPs that come with the engine."""

from pathlib import Path

from tasks.definition.check import read
from tasks.definition.records import SopDef

FOLDER = Path(__file__).resolve().parent.parent / "sops"


def shipped() -> list[Path]:
    """Return the files of the shipped SOPs, by name."""
    return sorted(FOLDER.glob("*.yaml"))


def read_file(path: Path) -> SopDef:
    """Return the SOP in a file; DefinitionError says what is wrong in it, OSError that it cannot be read."""
    return read(path.read_text(encoding="utf-8"), str(path))
