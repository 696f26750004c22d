"""The SOP file: YAML to JSON values with the place of each, and back.

It is the part of YAML that says what it looks like: no aliases, no tags, no dates, and of the
many words for yes only `true`. What is no number, flag or null is text.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from tasks.definition.records import SopDef, to_json
from tasks.definition.shape import Finding, Path

LARGEST = 200_000  # characters
Place = tuple[int, int]

_TAG = "tag:yaml.org,2002:"
_TEMPLATE_HINT = "; a text with {{ }} must stand in quotes"


class _Loader(yaml.SafeLoader):
    """Knows text, true and false, whole and decimal numbers, and null."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    for _letter in _first.replace("\0", ""):
        _Loader.yaml_implicit_resolvers.setdefault(_letter, []).append(
            (_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"))
        )
_Loader.yaml_implicit_resolvers.setdefault("", []).append((_TAG + "null", re.compile(r"\Z")))


@dataclass
class Document:
    """A file as JSON values, with the place (line, column) of each value and of each key."""

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    key_places: dict[Path, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def place(self, finding: Finding) -> Place:
        """Return where a finding is: its own place, or that of the nearest thing around it."""
        path = finding.path
        if finding.at_key and path in self.key_places:
            return self.key_places[path]
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


def load(text: str) -> Document:
    """Return the document in `text`; what is not part of our YAML is a finding, at its place."""
    document = Document(places={(): (1, 1)})
    if len(text) > LARGEST:
        document.findings.append(
            Finding((), f"the file has {len(text):,} characters; at most {LARGEST:,} are read")
        )
        return document
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                return _refused(
                    document, event.start_mark, "aliases (*name) are not part of a SOP file; write it out"
                )
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        reason = error.problem or error.context or "a mark is missing"
        hint = _TEMPLATE_HINT if "{{" in text else ""
        return _refused(
            document, error.problem_mark or error.context_mark, f"this is not YAML: {reason}{hint}"
        )
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return _refused(document, None, f"this is not YAML: {type(error).__name__}")
    if node is not None:
        document.value = _value(node, (), document)
    return document


def _refused(document: Document, mark: Any, message: str) -> Document:
    if mark:
        document.places[()] = (mark.line + 1, mark.column + 1)
    document.findings.append(Finding((), message))
    return document


def _value(node: yaml.Node, path: Path, document: Document) -> Any:
    """Return the node as JSON values, noting where everything is."""
    document.places[path] = _place(node)
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(inner, (*path, index), document) for index, inner in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        if _UNSTORABLE.search(node.value):
            document.findings.append(Finding(path, "has a character that no database keeps"))
            return None
        try:
            return _SCALARS[node.tag](node.value)
        except (ValueError, KeyError):
            document.findings.append(
                Finding(path, f"{node.value[:40]!r} is not a {node.tag.removeprefix(_TAG)}")
            )
            return None
    document.findings.append(Finding(path, f"the tag {node.tag} is not part of a SOP file; leave it out"))
    return None


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            document.places[(*path, "?")] = _place(key_node)
            hint = "a text with {{ }} must stand in quotes" if isinstance(key_node, yaml.MappingNode) else ""
            document.findings.append(
                Finding((*path, "?"), "a key must be text" + (f"; {hint}" if hint else ""))
            )
            continue
        key = str(key_node.value)
        here = (*path, key)
        document.key_places[here] = _place(key_node)
        if _UNSTORABLE.search(key):
            document.findings.append(
                Finding((*path, "?"), "a key has a character that no database keeps", at_key=True)
            )
            document.key_places[*path, "?"] = _place(key_node)
            continue
        if key in values:
            document.findings.append(Finding(here, "is there twice; keep one", at_key=True))
        values[key] = _value(value_node, here, document)
    return values


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "str": str,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": int,
    _TAG + "float": float,
    _TAG + "null": lambda text: None,
}


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and half of a pair: YAML's escapes can write both
_RARE_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")


# -- writing --------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and lists under their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Several lines become a block, unless white space at an edge would have to be marked."""
    lines = text.removesuffix("\n").split("\n")
    block = len(lines) > 1 and lines[0] and lines[-1] and all(line == line.rstrip() for line in lines)
    # PyYAML cannot read how it writes the rare line breaks of Unicode, except between double quotes.
    style = '"' if _RARE_BREAKS.search(text) else "|" if block else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(sop: SopDef) -> str:
    """Return the SOP file of a definition; reading it gives the same definition again."""
    return "".join(_parts(to_json(sop)))


def _parts(values: dict[str, Any]) -> Iterator[str]:
    """Yield the head, and the steps with an empty line between them."""
    steps = values.pop("steps")
    yield _yaml(values)
    yield "steps:\n" if steps else "steps: []\n"
    for number, step in enumerate(steps):
        yield "\n" if number else ""
        yield "\n".join(f"  {line}" if line.strip() else line for line in _yaml([step]).split("\n"))


def _yaml(values: Any) -> str:
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=False
    )
