"""What people did in Slack, from the stored delivery: buttons, and what an answer at once could not do."""

from collections.abc import Sequence

from sopengine.errors import DataError
from tasks import slack_acts, slack_in
from tasks.events import Event
from tasks.readers import Reader, Received, readers


@readers.register("slack")
class Slack(Reader):
    """Acts for itself, in the name of the person; tells of no event."""

    takes = frozenset({"application/x-www-form-urlencoded"})

    def read(self, received: Received) -> Sequence[Event]:
        """Do what was asked for; who asked is told of a refusal."""
        try:
            asked = slack_acts.read(received.body)
        except ValueError:
            raise DataError("the body is nothing that Slack posts", code="bad_form") from None
        if asked.kind == "press":
            slack_acts.tell(asked, slack_acts.press(asked))
        elif asked.kind == "submit":
            slack_acts.tell(asked, " ".join(slack_acts.submit(asked).values()))
        elif asked.kind == "command":
            slack_acts.tell(asked, slack_in.commanded(asked, str(received.id)))
        return []
