"""Steps whose outside effect goes into a ledger, and steps that harm the process they run in."""

import http.client
import json
import os
import signal
import time

from pydantic import BaseModel

from tasks.outcome import Done, Effect, Open, Outcome, StepRun, Transient, handler

LEDGER = os.environ.get("PROBE_LEDGER", "")  # 127.0.0.1:port


class Entry(BaseModel):
    """What the ledger says of a write."""

    key: Open[str]


def ask(step: StepRun, method: str, path: str) -> dict[str, object]:
    """Talk to the ledger; what the connection does not survive is unknown.

    Like all that sends, it looks at the deadline at the last moment before it does.
    """
    connection = http.client.HTTPConnection(LEDGER, timeout=max(0.05, step.deadline.remaining()))
    try:
        connection.connect()
        step.deadline.check()
        connection.request(method, path)
        answer: dict[str, object] = json.loads(connection.getresponse().read())
    except ConnectionRefusedError as error:
        raise Transient("the ledger is closed", code="ledger_closed", sent="no") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Transient("the ledger did not answer", code="ledger", sent="maybe") from error
    finally:
        connection.close()
    return answer


def write(step: StepRun, kind: str) -> Done:
    """Put one line into the ledger under this step's key."""
    ask(step, "POST", f"/{kind}/{step.key()}")
    return Done(values={"key": step.key()})


@handler("probe.note")
def note(step: StepRun) -> Outcome:
    """Do nothing outside: effect none, in the drain's own thread."""
    return Done()


@handler("probe.slow", calls=True)
def slow(step: StepRun, *, seconds: float = 0.0) -> Outcome:
    """Take a while in a thread; effect none."""
    time.sleep(seconds)
    return Done()


@handler("probe.write", effect=Effect.IDEMPOTENT, results=Entry)
def keyed(step: StepRun) -> Outcome:
    """Write under a key that the ledger honours."""
    return write(step, "keyed")


def look(step: StepRun) -> Outcome | None:
    """Return Done when the ledger has the write of an earlier try."""
    found = ask(step, "GET", f"/checked/{step.key()}")["count"]
    return Done(values={"key": step.key()}) if found else None


@handler("probe.check", effect=Effect.VERIFY_FIRST, look=look, results=Entry)
def checked(step: StepRun) -> Outcome:
    """Write to a ledger that ignores keys, so that a repeat must look first."""
    return write(step, "checked")


@handler("probe.post", effect=Effect.AT_MOST_ONCE, results=Entry)
def once(step: StepRun) -> Outcome:
    """Write what must never be written twice."""
    return write(step, "once")


@handler("probe.die")
def die(step: StepRun) -> Outcome:
    """Take the process along, each time."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Done()


@handler("probe.exit", calls=True)
def leave(step: StepRun) -> Outcome:
    """End the process from a thread, without a signal."""
    os._exit(3)


@handler("probe.hang", calls=True)
def hang(step: StepRun, *, seconds: float = 3600.0) -> Outcome:
    """Work past every deadline and never look at one."""
    time.sleep(seconds)
    return Done()
