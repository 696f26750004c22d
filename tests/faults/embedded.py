"""The engine in one process without a broker, as `manage.py serve` has it, killable by itself."""

from tasks.loop import DrainLoop


def main() -> None:
    """Drain and sweep for ever."""
    DrainLoop().run()
