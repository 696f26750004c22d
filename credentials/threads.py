"""Reading a credential inside a handler's thread: the one use of the database there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def own_connection() -> Iterator[None]:
    """Close, at the end, the database connection that the block opened in a thread that had none.

    The threads of a drain end without Django noticing; a connection left behind in one of them
    would stay open on the server.
    """
    borrowed = connection.connection is not None or threading.current_thread() is threading.main_thread()
    try:
        yield
    finally:
        if not borrowed:
            connection.close()
