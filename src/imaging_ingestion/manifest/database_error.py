"""What goes wrong with a database, and whose fault it is."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

#: PostgreSQL: classes of errors that are not the statement's: connection exception, insufficient
#: resources, lock not available and the like, operator intervention, system error.
_AWAY_CLASSES = ("08", "53", "55", "57", "58")


class BeginAgainError(Exception):
    """A write found, with locks in its hands, that it has to take them in another order.

    `Database.write` ends the transaction and runs it anew.
    """


def is_away(error: BaseException) -> bool:
    """Whether an error is the database's own (gone, locked, full), whatever was asked of it."""
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        return (
            error.connection_invalidated
            or isinstance(error, OperationalError | InterfaceError)
            or (state is not None and state.startswith(_AWAY_CLASSES))
        )
    return isinstance(error, OSError | PoolTimeoutError)


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code of an error (its Appendix A); None if it has none."""
    return getattr(error.orig, "sqlstate", None)
