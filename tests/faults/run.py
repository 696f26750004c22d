"""Run one of our modules with Django set up: `python -m tests.faults.run NAME ARGUMENT…`."""

import importlib
import sys

import django

if __name__ == "__main__":
    django.setup()
    importlib.import_module(f"tests.faults.{sys.argv[1]}").main(*sys.argv[2:])
