"""One small registry: a name, a thing, and an answer that lists the known names."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar


class UnknownName(LookupError):
    """A name that nothing has registered."""


T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name. Loading a package imports each of its modules, which register."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its thing under `name`; a second one is refused."""

        def add(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = thing
            return thing

        return add

    def get(self, name: str) -> T:
        """Return the thing called `name`, or raise UnknownName with the names there are."""
        try:
            return self._things[name]
        except KeyError:
            known = ", ".join(sorted(self._things)) or "none"
            raise UnknownName(f"unknown {self.kind} {name!r}; known: {known}") from None

    def remove(self, name: str) -> T:
        """Take `name` out, as when its file is gone."""
        return self._things.pop(name)

    def load(self, package: str) -> None:
        """Import every module directly inside `package`."""
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__):
            importlib.import_module(f"{package}.{module.name}")

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __len__(self) -> int:
        return len(self._things)
