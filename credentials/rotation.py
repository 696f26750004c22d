"""Moving everything that is sealed to the newest key, while the rows are in use."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models.functions import Left

from credentials.vault import SealedColumn, VaultError, seal, sealed_columns, sealed_prefix, unseal

_PASSES = 3  # a row that changed under the first pass is met again in the next


@dataclass(slots=True)
class Progress:
    """How far one column is: values re-encrypted, rows (ids) that no key opens, values left behind."""

    column: SealedColumn
    moved: int = 0
    closed: dict[str, str] = field(default_factory=dict)
    left: int = 0
    over: bool = False


def rotate(batch: int = 500) -> Iterator[Progress]:
    """Re-encrypt every registered column with the newest key; yield after each batch and column.

    Each value is replaced only if it is still what was read, so a writer beside it loses nothing;
    rows of the newest key are skipped, so a second run goes on where the first was stopped.
    """
    for column in sorted(sealed_columns):
        progress = Progress(column)
        rows = _Rows(column)
        for _ in range(_PASSES):
            for pks in rows.batches(batch):
                _move(rows, pks, progress)
                yield progress
            progress.left = rows.old().exclude(pk__in=progress.closed).count()
            if not progress.left:
                break
        progress.over = True
        yield progress


class _Rows:
    """The rows of one sealed column that the newest key has not sealed."""

    def __init__(self, column: SealedColumn) -> None:
        self.model = apps.get_model(column.model)
        self.field = column.field
        self.table = self.model._meta.db_table

    def old(self) -> "models.QuerySet[Any]":
        """Return the rows whose text begins with anything but the newest key's prefix.

        Compared as equal, not with LIKE, which takes no notice of case on SQLite.
        """
        prefix = sealed_prefix()
        rows = self.model._base_manager.filter(**{f"{self.field}__isnull": False})
        old: models.QuerySet[Any] = rows.annotate(sealed_head=Left(self.field, len(prefix)))
        return old.exclude(sealed_head=prefix)

    def batches(self, size: int) -> Iterator[list[tuple[Any, str]]]:
        """Yield (primary key, text) of the old rows, `size` at a time, in the order of their keys."""
        rows = self.old().order_by("pk").values_list("pk", self.field)
        found = list(rows[:size])
        while found:
            yield found
            found = list(rows.filter(pk__gt=found[-1][0])[:size])

    def swap(self, pk: Any, old: str, new: str) -> bool:
        """Replace the text if it is still `old`; return whether it was."""
        rows = self.model._base_manager.filter(**{"pk": pk, self.field: old})
        changed: int = rows.update(**{self.field: new})
        return changed == 1


def _move(rows: _Rows, pks: list[tuple[Any, str]], progress: Progress) -> None:
    """Re-encrypt one batch; what cannot be opened is noted and left as it is."""
    for pk, old in pks:
        row = str(pk)
        try:
            value = unseal(old, table=rows.table, row=row, field=rows.field)
        except VaultError as error:
            progress.closed[row] = str(error)
            continue
        progress.moved += rows.swap(pk, old, seal(value, table=rows.table, row=row, field=rows.field))
