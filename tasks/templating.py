"""Liquid templates for parameters and messages: strict, bounded, rendered once.

A template reaches only the names it is given: no Python attribute, no file, no wall clock. A
name that is not set is an error unless `default` stands behind it. What was rendered is never
rendered again, and no rendered text contains the marks of a template.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache, wraps
from io import StringIO
from pathlib import Path as FilePath
from typing import Any, TextIO, cast

from django.conf import settings
from liquid import Environment, RenderContext
from liquid.ast import Node
from liquid.builtin.expressions import FilteredExpression
from liquid.builtin.expressions import Path as NamePath
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.assign_tag import AssignNode
from liquid.exceptions import FilterArgumentError, LiquidError, UndefinedError
from liquid.expression import Expression
from liquid.output import LimitedStringIO
from liquid.static_analysis import analyze
from liquid.template import BoundTemplate
from liquid.token import Token
from liquid.undefined import UNDEFINED
from liquid.utils import ReadOnlyChainMap

from sopengine.errors import DataError

LONGEST_TEMPLATE = 50_000  # characters of source
LONGEST_TEXT = 200_000  # bytes of output, and characters or items between two filters
MOST_ROUNDS = 1_000  # loop rounds in one template, nested loops multiplied
MOST_LOCALS = 100_000  # bytes of assigned values
LARGEST_NUMBER = 1e18

TAGS = frozenset(
    {"assign", "break", "capture", "case", "comment", "continue", "echo", "for", "if", "unless", "#"}
)
FILTERS = frozenset(  # a list of words reads better than fifty quoted ones
    """abs append at_least at_most capitalize ceil compact concat date default divided_by downcase
    escape escape_once first floor join last lstrip map minus modulo newline_to_br plus prepend remove
    remove_first replace replace_first reverse round rstrip size slice sort sort_natural split squish
    strip strip_html strip_newlines sum times truncate truncatewords uniq upcase url_encode where""".split()  # noqa: SIM905
)
# Words that mean something else in a template and can be no name.
WORDS = frozenset(
    """and as blank cols contains continue else empty false for forloop if in limit nil not null offset
    or reversed true with""".split()  # noqa: SIM905
)
_TEXT_FILTERS = frozenset({"append", "prepend", "replace", "replace_first", "remove", "remove_first", "join"})
_INTERNAL_TAGS = frozenset({"output", "content", "literal", "illegal"})
_MESSAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_WORDS = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")

Names = Mapping[str, Any]
_VALUES = (str, int, float, Decimal, date, list, tuple, Mapping)


class TemplateError(DataError):
    """A template that cannot be read; `line` and `column` count from 1, inside the template."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Use:
    """One name that a template reads; `guarded` when a default stands behind it."""

    path: tuple[str, ...]
    guarded: bool


# -- what a template may do ---------------------------------------------------------------------


class _Context(RenderContext):
    """Looks names up, and decides what a missing or an empty one means at this place.

    The clock that Liquid would put under `now` and `today` is not in reach.
    """

    __slots__ = ("facing",)

    def __init__(self, template: BoundTemplate, *, facing: bool = False, **kwargs: Any) -> None:
        super().__init__(template, **kwargs)
        self.scope = ReadOnlyChainMap(self.locals, self.globals)
        self.facing = facing

    def get(self, path: list[object], *, token: Token | None, default: object = UNDEFINED) -> object:
        found = super().get(path, token=token, default=None if default is UNDEFINED else default)
        if found is not None and not (self.facing and _is_blank(found)):
            return found
        place = token.start_index if token else -1
        rules = cast("_Template", self.template)
        if place in rules.guarded or default is not UNDEFINED:
            return None
        if found is None and super().get(path, token=token, default=UNDEFINED) is not None:
            raise UndefinedError(f"{_source_name(token, path)!r} is not set", token=token)
        if self.facing and str(path[0]).startswith("customer_") and place not in rules.tested:
            name = _source_name(token, path)
            raise UndefinedError(f"{name!r} is empty and the text gives no default for it", token=token)
        return None

    def get_buffer(self, buf: TextIO | None = None) -> StringIO:
        used = buf.size if isinstance(buf, LimitedStringIO) else 0
        return LimitedStringIO(LONGEST_TEXT - used, newline="")

    def get_item(self, obj: Any, key: Any) -> Any:
        if isinstance(obj, Mapping | list | tuple | str):
            return super().get_item(obj, key)
        raise TypeError("only mappings, lists and texts have parts")


class _Template(BoundTemplate):
    """A parsed template that knows where a default stands behind a name, and where a name is only tested."""

    context_class = _Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filters: set[str] = set()
        self.guarded: set[int] = set()
        self.tested: set[int] = set()
        for node in _nodes(self):
            for expression in node.expressions():
                self._mark(expression, tests=not isinstance(node, OutputNode | AssignNode))

    def _mark(self, expression: Expression, *, tests: bool) -> None:
        if isinstance(expression, NamePath) and tests:
            self.tested.add(expression.token.start_index)
        if isinstance(expression, FilteredExpression):
            names = {f.name for f in expression.filters or ()}
            self.filters |= names
            if "default" in names and isinstance(expression.left, NamePath):
                self.guarded.add(expression.left.token.start_index)
        for part in expression.children():
            self._mark(part, tests=tests)


def _nodes(template: BoundTemplate) -> Iterator[Node]:
    context = RenderContext(template)
    waiting = list(template.nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children(context))


def _source_name(token: Token | None, path: list[object]) -> str:
    """Return the name as the template writes it: what `path` holds may be a customer's data."""
    found = _WORDS.match(token.source, token.start_index) if token else None
    return found.group() if found else str(path[0])


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | tuple | Mapping) and not value)


class _Environment(Environment):
    template_class = _Template
    loop_iteration_limit = MOST_ROUNDS
    local_namespace_limit = MOST_LOCALS
    output_stream_limit = LONGEST_TEXT

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        self.add_filter("date", _date)
        for name in set(self.tags) - TAGS - _INTERNAL_TAGS:
            del self.tags[name]
        for name in set(self.filters) - FILTERS:
            del self.filters[name]
        for name, run in self.filters.items():
            self.filters[name] = _bounded(name, run)


class _Refused(FilterArgumentError):
    """A filter that cannot go on; our own sentence, which repeats no value."""


def _bounded(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a result that is too large to go on with; where it could explode, before it is built."""

    @wraps(run)
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        if name in _TEXT_FILTERS:
            args = tuple("" if arg is None else arg for arg in args)
        sizes = [_size(value), *map(_size, args)]
        grown = sizes[0] * max(sizes[1:], default=1) if name in ("replace", "join") else max(sizes)
        if grown > LONGEST_TEXT:
            raise _Refused(f"{name} makes too long a text", token=None)
        try:
            result = run(value, *args, **kwargs)
        except UndefinedError:
            raise
        except (LiquidError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise _Refused(f"{name} cannot use the value it got", token=None) from None
        if _size(result) > LONGEST_TEXT or (isinstance(result, int) and abs(result) > LARGEST_NUMBER):
            raise _Refused(f"{name} makes too large a value", token=None)
        return result

    return bounded


def _size(value: Any) -> int:
    if isinstance(value, range):
        return max(0, value.stop - value.start)  # len() fails beyond 63 bits
    return len(value) if isinstance(value, str | list | tuple) else 1


def _date(value: object, form: object) -> str:
    """Format a date, a time or an ISO text by strftime's letters; nothing else is a date."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, date):
        raise TypeError("no date")
    return value.strftime(str(form))


_PLAIN = _Environment()
_HTML = _Environment(autoescape=True)


# -- reading and rendering ------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _compile(source: str, html: bool = False) -> _Template:
    if len(source) > LONGEST_TEMPLATE:
        raise TemplateError(
            f"the template has {len(source):,} characters; at most {LONGEST_TEMPLATE:,} are read"
        )
    try:
        template = cast("_Template", (_HTML if html else _PLAIN).from_string(source))
    except LiquidError as error:
        line, column = _place(error)
        raise TemplateError(f"the template cannot be read: {error.message}", line, column) from None
    except RecursionError:
        raise TemplateError("the template is nested too deeply") from None
    unknown = template.filters - FILTERS
    if unknown:
        raise TemplateError(f"unknown filter {min(unknown)!r}; known: {', '.join(sorted(FILTERS))}")
    return template


def _place(error: LiquidError) -> tuple[int, int]:
    try:
        context = error.context()
    except ValueError:
        context = None
    return (context[0], context[1] + 1) if context else (0, 0)


@lru_cache(maxsize=4096)
def _single(source: str) -> Expression | None:
    """Return the expression of a source that is one `{{ ... }}` and nothing else."""
    nodes = _compile(source).nodes
    return nodes[0].expression if len(nodes) == 1 and type(nodes[0]) is OutputNode else None


def has_template(value: Any) -> bool:
    """Return whether anything in `value` is to be rendered."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(has_template(inner) for inner in value.values())
    return isinstance(value, list | tuple) and any(has_template(inner) for inner in value)


def render(value: Any, names: Names, *, customer_facing: bool = False) -> Any:
    """Return `value` with every template in it rendered with `names`; DataError when one cannot be.

    A text that is exactly one `{{ ... }}` becomes the value itself, with its type. A value
    without a template is returned as it is, not copied. With `customer_facing` an empty
    `customer_` value without a default is an error.
    """
    if not has_template(value):
        return value
    if isinstance(value, str):
        return _render_text(value, names, customer_facing)
    if isinstance(value, Mapping):
        return {key: render(inner, names, customer_facing=customer_facing) for key, inner in value.items()}
    return [render(inner, names, customer_facing=customer_facing) for inner in value]


def _render_text(source: str, names: Names, facing: bool) -> Any:
    expression = _single(source.strip())
    if expression is None:
        return _write(source, names, html=False, facing=facing)
    template = _compile(source.strip())
    value = _safely(lambda: expression.evaluate(_context(template, names, facing)))
    if isinstance(value, range) and _size(value) <= MOST_ROUNDS:
        return list(value)
    if value is not None and not isinstance(value, _VALUES):
        raise DataError(f"the template {source.strip()} has no value that can be passed on")
    return value


def _write(source: str, names: Names, *, html: bool, facing: bool) -> str:
    template = _compile(source, html)
    output = LimitedStringIO(LONGEST_TEXT, newline="")  # or a carriage return would become a line feed
    _safely(lambda: template.render_with_context(_context(template, names, facing), output))
    text = output.getvalue()
    if "{{" in text or "{%" in text:
        raise DataError("the rendered text contains {{ or {%, which no customer may see")
    return text


def _context(template: _Template, names: Names, facing: bool) -> _Context:
    if "children" in names:
        names = {**names, "children": _Counts(names["children"])}
    return _Context(template, globals=names, facing=facing)


class _Counts(dict[str, int]):
    """Children by result: of a result that no child came to there are none."""

    def __missing__(self, key: str) -> int:
        return 0


def _safely(run: Callable[[], Any]) -> Any:
    """Run, and turn what goes wrong into a DataError that repeats no value, only names of the template."""
    try:
        return run()
    except UndefinedError as error:
        raise DataError(str(error.message)) from None
    except (LiquidError, RecursionError, ValueError, TypeError) as error:
        line = _place(error)[0] if isinstance(error, LiquidError) else 0
        where = f" in line {line}" if line else ""
        raise DataError(f"the template cannot be rendered{where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error.args[0])
    return _REASONS.get(type(error).__name__, "a value is of the wrong kind")


_REASONS = {
    "OutputStreamLimitError": f"its text is longer than {LONGEST_TEXT:,} bytes",
    "LoopIterationLimitError": f"its loops go round more than {MOST_ROUNDS:,} times",
    "LocalNamespaceLimitError": f"it assigns more than {MOST_LOCALS:,} bytes",
    "ContextDepthError": "it is nested too deeply",
    "RecursionError": "it is nested too deeply",
}


# -- what a template names --------------------------------------------------------------------------


def variables(value: Any) -> set[tuple[str, ...]]:
    """Return the path of every name that the templates in `value` read from outside."""
    return {use.path for use in uses(value)}


def uses(value: Any) -> list[Use]:
    """Return every name that the templates in `value` read; TemplateError when one cannot be read."""
    if isinstance(value, str):
        return list(_uses(value)) if has_template(value) else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [use for part in parts for use in uses(part)]


@lru_cache(maxsize=4096)
def _uses(source: str) -> tuple[Use, ...]:
    template = _compile(source)
    found = analyze(template, include_partials=False).globals
    return tuple(
        Use(_leading_words(variable.segments), variable.span.index in template.guarded)
        for several in found.values()
        for variable in several
    )


def _leading_words(segments: Sequence[object]) -> tuple[str, ...]:
    words = []
    for segment in segments:
        if not isinstance(segment, str):
            break
        words.append(segment)
    return tuple(words)


# -- messages -----------------------------------------------------------------------------------------

PARTS = {"subject": "subject.txt", "text": "text.txt", "html": "html.html"}


def render_message(template: str | Mapping[str, str], names: Names) -> dict[str, str]:
    """Return {"subject", "text", "html"} of one message to a customer, rendered with `names`.

    `template` is the name of a folder in `templates/messages`, or the parts themselves; what a
    message lacks is empty. Values are escaped in the HTML. DataError names an empty `customer_`
    value that has no default.
    """
    sources = _sources_at_run(template) if isinstance(template, str) else template
    unknown = set(sources) - set(PARTS)
    if unknown:
        raise DataError(f"a message has no part {min(unknown)!r}; it has {', '.join(PARTS)}")
    message = {
        part: _write(sources.get(part, ""), names, html=part == "html", facing=True).strip() for part in PARTS
    }
    return {**message, "subject": " ".join(message["subject"].split())}


def mentions(template: str | Mapping[str, str], name: str) -> bool:
    """Return whether any part of a message, given as to `render_message`, reads this name."""
    sources = _sources_at_run(template) if isinstance(template, str) else template
    return any(use.path[0] == name for part in sources.values() for use in uses(part))


def _sources_at_run(name: str) -> dict[str, str]:
    """Return the sources; the error does not repeat the name, which a run may have got from its values."""
    try:
        return message_sources(name)
    except DataError:
        known = ", ".join(message_names()) or "none"
        raise DataError(f"there is no such message template; known: {known}") from None


def message_sources(name: str) -> dict[str, str]:
    """Return the templates in the folder `templates/messages/<name>` by part, or raise DataError."""
    folder = messages_folder() / name
    if not _MESSAGE_NAME.fullmatch(name) or not folder.is_dir():
        known = ", ".join(message_names()) or "none"
        raise DataError(f"there is no message template {name!r}; known: {known}")
    return {part: _read_file(folder / file) for part, file in PARTS.items() if (folder / file).is_file()}


def message_names() -> list[str]:
    """Return the names of the message templates there are."""
    folder = messages_folder()
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def messages_folder() -> FilePath:
    """Return the folder that has one folder for each message."""
    return FilePath(settings.BASE_DIR) / "templates" / "messages"


def _read_file(path: FilePath) -> str:
    return _read_cached(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read_cached(path: FilePath, changed: int) -> str:
    return path.read_text(encoding="utf-8")
