"""Forms of the staff pages. A step's form is made from the parameters of its handler.

A parameter may always be a template such as {{ season }} instead of a value; what is no template
is checked against the parameter's type here, and against the whole SOP by `tasks.definition`.
"""

import types
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID
from zoneinfo import available_timezones

import yaml
from django import forms
from django.conf import settings
from django.core.validators import RegexValidator
from django.forms.utils import flatatt
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import slugify
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tasks.models import Sop, Step
from tasks.outcome import Handler, handlers

Choices = list[tuple[str, str]]

LONG_TEXTS = frozenset({"body", "html", "message", "note", "question", "text"})
GIVE_UP: Choices = [
    ("", "as usual for this kind of step"),
    ("escalate", "stop and tell a person"),
    ("hold", "wait until the other system is back"),
    ("fail", "end the run as failed"),
]
WHY: Choices = [
    ("", "no reason given"),
    ("customer_asked", "The customer asked for it"),
    ("wrong_data", "Something in it is wrong"),
    ("duplicate", "It is there twice"),
    ("not_needed", "It is no longer needed"),
    ("fixed", "The cause is mended"),
    ("trial", "It was only a trial"),
]
month_day = RegexValidator(
    r"^(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$", "Write month and day, such as 02-15 for 15 February."
)


class _PlainLoader(yaml.SafeLoader):
    """YAML without dates: 2026-02-15 stays the text that somebody typed."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def is_template(value: object) -> bool:
    """Return whether the value, or something inside it, is to be filled in by the run."""
    if isinstance(value, Mapping):
        return any(map(is_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_template, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def read_yaml(text: str) -> Any:
    """Return the value that `text` is in YAML (JSON too), or raise a form error with the line."""
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        quotes = " Text with {{ }} must stand in quotes." if "{{" in text else ""
        raise forms.ValidationError(f"This cannot be read as YAML{where}.{quotes}") from None


def write_yaml(value: object) -> str:
    """Return a value as YAML for a text box; nothing for None."""
    if value is None or value == {}:
        return ""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


# -- one field for each type -----------------------------------------------------------------------


class TextField(forms.CharField):
    """A text with the line ends that everything else has; browsers send others."""

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")


class NumberField(forms.CharField):
    """A whole or decimal number, or a template."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text or is_template(text):
            return text
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            raise forms.ValidationError("Write a number, such as 3 or 2.5, or a template.") from None


class ScalarField(forms.CharField):
    """A value that may be of several plain types: a number is kept as one where numbers are known."""

    def __init__(self, *, kinds: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kinds = [kind for kind in (int, float) if kind in kinds]

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        for kind in self.kinds:
            try:
                return kind(text)
            except (TypeError, ValueError):
                continue
        return text


class LinesField(forms.CharField):
    """A list with one item per line, or one template for the whole list."""

    widget = forms.Textarea(attrs={"rows": 3})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if len(lines) == 1 and lines[0].startswith("{{") and lines[0].endswith("}}"):
            return lines[0]
        return lines


class StructureField(forms.CharField):
    """A list or mapping written as YAML or JSON, or one template for the whole."""

    widget = forms.Textarea(attrs={"rows": 6, "class": "sp-code", "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else write_yaml(value)

    def to_python(self, value: Any) -> Any:
        text = (super().to_python(value) or "").strip()
        if not text:
            return None
        if text.startswith("{{") and text.endswith("}}"):
            return text
        return read_yaml(text)


class ChoiceOrTemplateWidget(forms.MultiWidget):
    """A select, and beside it a text box for a template."""

    def __init__(self, choices: Choices, attrs: dict[str, Any] | None = None) -> None:
        template = forms.TextInput(
            attrs={
                "placeholder": "or {{ a value }}",
                "aria-label": "or a value from the run",
                "class": "sp-alt",
            }
        )
        super().__init__({"": forms.Select(choices=choices), "template": template}, attrs)

    def decompress(self, value: Any) -> list[Any]:
        if is_template(value):
            return ["", value]
        if isinstance(value, bool):
            return ["yes" if value else "no", ""]
        return ["" if value is None else str(value), ""]


class ChoiceOrTemplateField(forms.MultiValueField):
    """One of the choices, or a template; `values` says what each choice stands for."""

    def __init__(self, values: Mapping[str, Any], *, empty: str, **kwargs: Any) -> None:
        choices = [("", empty), *((word, word) for word in values)]
        self.values = values
        self.words = choices
        super().__init__(
            fields=(forms.ChoiceField(choices=choices, required=False), forms.CharField(required=False)),
            widget=ChoiceOrTemplateWidget(choices),
            require_all_fields=False,
            **kwargs,
        )

    def compress(self, data_list: Sequence[Any]) -> Any:
        word, template = [*(data_list or ()), "", ""][:2]
        if template and not is_template(template):
            raise forms.ValidationError("Choose from the list, or write a template such as {{ season }}.")
        return template or (self.values[word] if word else None)


def field_for(name: str, info: FieldInfo) -> forms.Field:
    """Return the form field for one parameter of a handler."""
    kind = _bare(info.annotation)
    common: dict[str, Any] = {
        "label": info.title or name.replace("_", " ").capitalize(),
        "required": info.is_required(),
        "help_text": _help(info),
    }
    if (values := _choices(kind)) is not None:
        empty = "choose…" if info.is_required() else _if_empty(info) or "not set"
        return ChoiceOrTemplateField(values, empty=empty, **common)
    if kind in (int, float):
        box = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})
        return NumberField(widget=box, **common)
    if kind is str:
        rows = forms.Textarea(attrs={"rows": 5}) if name in LONG_TEXTS else forms.TextInput()
        return TextField(widget=rows, strip=False, **common)
    if _is_list(kind):
        common["help_text"] = f"One per line. {common['help_text']}".strip()
        return LinesField(**common)
    if _is_scalar(kind):
        return ScalarField(kinds=_parts(kind), **common)
    common["help_text"] = f"As YAML or JSON. {common['help_text']}".strip()
    return StructureField(**common)


def _bare(hint: Any) -> Any:
    """Return a type without Annotated and without None."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        left = [part for part in get_args(hint) if part is not type(None)]
        return _bare(left[0]) if len(left) == 1 else hint
    return hint


def _parts(kind: Any) -> list[Any]:
    """Return the types of a union without None; of anything else, itself."""
    if get_origin(kind) not in (Union, types.UnionType):
        return [kind]
    return [_bare(part) for part in get_args(kind) if part is not type(None)]


def _choices(kind: Any) -> dict[str, Any] | None:
    if kind is bool:
        return {"yes": True, "no": False}
    if get_origin(kind) is Literal:
        return {str(value): value for value in get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {str(member.value): member.value for member in kind}
    return None


def _is_list(kind: Any) -> bool:
    """Return whether it is a list of plain values (or that as one of several forms, none a mapping)."""
    if len(parts := _parts(kind)) > 1:
        return any(map(_is_list, parts)) and all(_is_list(part) or _is_scalar(part) for part in parts)
    origin = get_origin(kind) or kind
    is_sequence = isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset)
    items = [_bare(part) for part in get_args(kind) if part is not Ellipsis]
    return is_sequence and origin is not str and all(_is_scalar(i) or _choices(i) is not None for i in items)


def _is_scalar(kind: Any) -> bool:
    """Return whether it is one plain value, which a line of text can say."""
    if len(parts := _parts(kind)) > 1:
        return all(map(_is_scalar, parts))
    return kind in (str, int, float, bool, date, datetime, time, timedelta, Decimal, UUID)


def _help(info: FieldInfo) -> str:
    empty = _if_empty(info)
    told = info.description or ""
    return f"{told} {f'If empty: {empty}.' if empty else ''}".strip()


def _if_empty(info: FieldInfo) -> str:
    if info.is_required():
        return ""
    default = info.get_default(call_default_factory=True)  # type: ignore[call-arg,unused-ignore]
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, list | tuple):
        return (
            ", ".join(map(str, default))
            if all(isinstance(item, str | int) for item in default)
            else "the usual ones"
        )
    return "" if default in (None, "", {}) else str(getattr(default, "value", default))


# -- the form of one step --------------------------------------------------------------------------


class ParamsForm(forms.Form):
    """The parameters of one handler; `params()` is what the step keeps."""

    infos: Mapping[str, FieldInfo] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for bound in self:
            if isinstance(bound.field.widget, forms.Textarea):
                lines = str(bound.value() or "").count("\n") + 1
                bound.field.widget.attrs["rows"] = min(max(lines, 2), 14)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for name, info in self.infos.items():
            value = data.get(name)
            if name in data and not _is_empty(value) and not is_template(value):
                self._check(name, info, value)
        return data

    def _check(self, name: str, info: FieldInfo, value: Any) -> None:
        kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                where = ".".join(map(str, problem["loc"]))
                self.add_error(name, f"{where}: {problem['msg']}" if where else str(problem["msg"]))

    def params(self) -> dict[str, Any]:
        """Return the given parameters; what was left empty follows its default."""
        return {
            name: value
            for name, value in self.cleaned_data.items()
            if not _is_empty(value) or isinstance(value, bool)
        }


class RawParamsForm(ParamsForm):
    """The parameters of a step whose handler is not there: as YAML."""

    everything = StructureField(label="Settings", required=False, help_text="As YAML or JSON.")

    def clean_everything(self) -> dict[str, Any]:
        value = self.cleaned_data["everything"] or {}
        if not isinstance(value, dict):
            raise forms.ValidationError("Write one setting per line, such as `text: Hello`.")
        return value

    def params(self) -> dict[str, Any]:
        return dict(self.cleaned_data["everything"])


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def params_form(name: str) -> type[ParamsForm]:
    """Return the form for the handler called `name`; for an unknown one, a text box."""
    if name not in handlers:
        return RawParamsForm
    infos = dict(handlers.get(name).params.model_fields)
    fields: dict[str, Any] = {key: field_for(key, info) for key, info in infos.items()}
    if "sop" in infos and infos["sop"].annotation is str:
        fields["sop"] = _sop_field(infos["sop"])
    return type("StepParamsForm", (ParamsForm,), {**fields, "infos": infos})


def _sop_field(info: FieldInfo) -> forms.Field:
    """Return a select of the SOPs there are, for the parameter that names the one to start."""
    slugs = {slug: slug for slug in Sop.objects.values_list("slug", flat=True).order_by("slug")}
    return ChoiceOrTemplateField(slugs, empty="choose…", label="SOP to start", required=info.is_required())


def open_params(step: Step, data: Mapping[str, Any] | None = None) -> ParamsForm:
    """Return the parameter form of a step, with its values or with what was posted."""
    kind = params_form(step.handler)
    initial = {"everything": step.params} if kind is RawParamsForm else step.params
    return kind(data, initial=initial, prefix=f"with-{step.pk}")


def unknown_params(step: Step) -> list[str]:
    """Return the settings of a step that its handler does not have; saving drops them."""
    if step.handler not in handlers:
        return []
    return sorted(set(step.params) - set(handlers.get(step.handler).params.model_fields))


class StepForm(forms.ModelForm):  # type: ignore[type-arg,unused-ignore]
    """What every step has, whatever its handler."""

    class Meta:
        model = Step
        fields = ["name", "key", "on_success", "on_failure", "max_retries", "timeout", "rate"]
        labels = {
            "key": "Short name",
            "on_success": "Then",
            "on_failure": "If it cannot be done",
            "max_retries": "Tries again at most",
            "timeout": "May take (seconds)",
            "rate": "At most",
        }
        help_texts = {
            "key": "How other steps and texts call this one, such as draft.",
            "timeout": "If empty: the usual limit.",
            "rate": "Such as 30/minute. If empty: no limit.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        others = [(s.key, f"go to “{s}”") for s in self.instance.sop.steps.all() if s.pk != self.instance.pk]
        onward: Choices = [("next", "go to the next step"), ("complete", "end the run"), *others]
        self._select("on_success", onward, required=True)
        self._select("on_failure", [*GIVE_UP, *others], required=False)

    def _select(self, name: str, choices: Choices, *, required: bool) -> None:
        current = getattr(self.instance, name)
        known = {value for value, _ in choices}
        extra = [(current, f"“{current}” (there is no such step)")] if current not in known else []
        field = forms.ChoiceField(
            choices=[*choices, *extra], required=required, label=self.fields[name].label
        )
        self.fields[name] = field

    def clean_key(self) -> str:
        key: str = self.cleaned_data["key"]
        if self.instance.sop.steps.filter(key=key).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError(f"Another step is already called “{key}”.")
        return key


class AddStepForm(forms.Form):
    """A new last step: its kind and its name."""

    handler = forms.ChoiceField(label="Kind of step")
    name = forms.CharField(label="Name", max_length=120, help_text="What it does, such as “Draft the mail”.")

    def __init__(self, *args: Any, sop: Sop, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sop = sop
        choices: Choices = [("", "choose…"), *((name, kind_label(handlers.get(name))) for name in handlers)]
        self.fields["handler"] = forms.ChoiceField(label="Kind of step", choices=choices)

    def free_key(self) -> str:
        """Return a short name made from the name that no other step has."""
        wanted = slugify(self.cleaned_data["name"]).replace("-", "_")[:50] or "step"
        taken = set(self.sop.steps.values_list("key", flat=True))
        numbered = (f"{wanted}_{number}" for number in range(2, len(taken) + 3))
        return next(key for key in (wanted, *numbered) if key not in taken)


def kind_label(handler: Handler) -> str:
    """Return what a handler does, with its name."""
    summary = handler.summary.replace("`", "").rstrip(".")
    return f"{summary} ({handler.name})" if summary else handler.name


# -- the SOP itself --------------------------------------------------------------------------------


class SopForm(forms.ModelForm):  # type: ignore[type-arg,unused-ignore]
    """What a SOP is called and how it may act."""

    class Meta:
        model = Sop
        fields = ["name", "description", "channel", "priority", "autonomous", "inputs"]
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}
        labels = {
            "inputs": "What a run is given",
            "autonomous": "May write to customers without asking a person first",
        }
        help_texts = {"autonomous": ""}

    inputs = StructureField(
        label="What a run is given",
        required=False,
        help_text='One per line, such as  season: {type: integer, default: "{{ slot.year }}"}',
    )
    priority = forms.TypedChoiceField(
        label="Urgency", coerce=int, choices=[(0, "First"), (1, "Normal"), (2, "Last")], initial=1
    )

    def clean_inputs(self) -> dict[str, Any]:
        value = self.cleaned_data["inputs"] or {}
        if not isinstance(value, dict) or not all(isinstance(told, dict) for told in value.values()):
            raise forms.ValidationError("Write one input per line, such as  season: {type: integer}.")
        return value


class NewSopForm(forms.ModelForm):  # type: ignore[type-arg,unused-ignore]
    """A new, empty SOP."""

    class Meta:
        model = Sop
        fields = ["name", "slug"]
        labels = {"slug": "Short name"}
        help_texts = {"slug": "For commands and files; small letters, digits and dashes. It stays for ever."}


class LongSelect(forms.Select):
    """A select with hundreds of choices, written at once: a template for each takes a second."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        chosen = {str(value)}
        options = format_html_join(
            "",
            '<option value="{}"{}>{}</option>',
            ((key, SafeString(" selected") if key in chosen else "", word) for key, word in self.choices),
        )
        more = flatatt({**self.attrs, **(attrs or {})})
        return format_html('<select name="{}"{}>{}</select>', name, more, options)


class ScheduleForm(forms.Form):
    """When a SOP starts by itself; `trigger()` is what the SOP keeps."""

    schedule = forms.CharField(
        label="When",
        required=False,
        max_length=100,
        help_text="Minute, hour, day, month, weekday. “0 9 * * MON” is each Monday at 09:00, "
        "“30 7 * * MON-FRI” is 07:30 on weekdays, “0 9 1 * *” the first of the month. "
        "Empty: never by itself.",
    )
    timezone = forms.ChoiceField(label="Time zone", required=False)
    from_ = forms.CharField(
        label="From (month-day)",
        required=False,
        validators=[month_day],
        help_text="Such as 02-15. Empty: all year.",
    )
    until = forms.CharField(
        label="Until (month-day)", required=False, validators=[month_day], help_text="Such as 05-31."
    )
    overlap = forms.ChoiceField(
        label="If the last run is not over",
        choices=[("skip", "leave this one out"), ("allow", "start this one too")],
        required=False,
    )
    catch_up = forms.ChoiceField(
        label="After a standstill",
        choices=[("skip", "leave out what was missed"), ("once", "start once for all that was missed")],
        required=False,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones: Choices = [(zone, zone.replace("_", " ")) for zone in sorted(available_timezones())]
        here = (settings.TIME_ZONE, f"{settings.TIME_ZONE.replace('_', ' ')} (the business)")
        self.fields["timezone"] = forms.ChoiceField(
            label="Time zone", required=False, choices=[here, *zones], widget=LongSelect
        )

    @classmethod
    def initial_of(cls, trigger: Mapping[str, Any]) -> dict[str, Any]:
        """Return the form's values for a trigger."""
        told = {name: value for name, value in trigger.items() if name != "from"}
        return {"timezone": settings.TIME_ZONE, **told, "from_": trigger.get("from", "")}

    def trigger(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trigger with this schedule; what else it had stays."""
        mine = {"schedule", "timezone", "from", "until", "overlap", "catch_up"}
        kept = {name: value for name, value in before.items() if name not in mine}
        if not self.cleaned_data["schedule"]:
            return kept
        given = {**self.cleaned_data, "from": self.cleaned_data["from_"]}
        return {**kept, **{name: given[name] for name in sorted(mine) if given[name]}}


# -- runs and approvals ----------------------------------------------------------------------------


class _DateText(forms.DateField):
    """A day, kept as the text that the CRM and templates use."""

    widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")

    def clean(self, value: Any) -> Any:
        day = super().clean(value)
        return day.isoformat() if day else None


_INPUT_FIELDS: Mapping[str, type[forms.Field]] = {
    "date": _DateText,
    "integer": forms.IntegerField,
    "list": LinesField,
    "number": forms.FloatField,
    "string": forms.CharField,
}


def run_form(inputs: Mapping[str, Any]) -> type[forms.Form]:
    """Return the form for what a run of this SOP is given."""
    return type("RunForm", (_RunForm,), {name: _input_field(name, told) for name, told in inputs.items()})


class _RunForm(forms.Form):
    def given(self) -> dict[str, Any]:
        """Return the inputs that were filled in; the rest follow their defaults."""
        return {name: value for name, value in self.cleaned_data.items() if not _is_empty(value)}


def _input_field(name: str, told: Mapping[str, Any]) -> forms.Field:
    label = str(told.get("label") or name.replace("_", " ").capitalize())
    default = told.get("default")
    shown = {True: "yes", False: "no"}.get(default, default) if isinstance(default, bool) else default
    told_default = f"If empty: {shown}." if shown not in (None, "") else ""
    by_itself = "If empty, it is worked out when the run starts." if is_template(default) else told_default
    help_text = f"{told.get('description', '')} {by_itself}".strip()
    required = "default" not in told and bool(told.get("required", True))
    kind = str(told.get("type", "string"))
    if kind == "boolean":
        words = [("", "not set"), ("yes", "yes"), ("no", "no")]
        return forms.TypedChoiceField(
            label=label,
            choices=words,
            required=required,
            help_text=help_text,
            coerce=lambda v: v == "yes",
            empty_value=None,
        )
    if kind not in _INPUT_FIELDS:
        return StructureField(
            label=label, required=required, help_text=f"As YAML or JSON. {help_text}".strip()
        )
    return _INPUT_FIELDS[kind](label=label, required=required, help_text=help_text)


class DraftForm(forms.Form):
    """A draft with a person's changes."""

    subject = forms.CharField(max_length=200)
    text = TextField(label="Text", strip=False, widget=forms.Textarea(attrs={"rows": 12}))


class WhyForm(forms.Form):
    """Why a person steps in: a code, because what is typed freely might name a customer."""

    why = forms.ChoiceField(label="Reason", choices=WHY, required=False)


class BatchForm(forms.Form):
    """The approvals that were shown and are answered together."""

    ids = forms.CharField(widget=forms.HiddenInput)
    count = forms.IntegerField(required=False)
