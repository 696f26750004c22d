"""Steps that do nothing, for the benchmarks; loaded through PLUGINS."""

from tasks.outcome import Done, Outcome, StepRun, handler


@handler("bench.noop")
def noop(step: StepRun) -> Outcome:
    """Do nothing."""
    return Done()


@handler("bench.once", effect="at_most_once", calls=True)
def once(step: StepRun) -> Outcome:
    """Do nothing, as if it were something that must never happen twice."""
    return Done()
