"""SQLite below Prefect's server: a transaction that may write waits for its turn before it reads.

Most of Prefect's transactions begin as readers (BEGIN DEFERRED). If another connection commits between such a
transaction's first read and its first write, SQLite refuses the write at once, whatever the timeout, since what was read
is no longer true: "database is locked", with a traceback of 80 lines and a request that is repeated, or a worker's
heartbeat that is lost. A transaction that takes the lock first (BEGIN IMMEDIATE) waits up to a minute instead.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


@asynccontextmanager
async def _begin_transaction(
    _: "AioSqliteConfiguration", session: "AsyncSession", with_for_update: bool = False
) -> "AsyncIterator[AsyncSessionTransaction]":
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE

    async with session.begin() as transaction:
        mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()
        finally:
            SQLITE_BEGIN_MODE.reset(mode)  # sessions that only read, opened meanwhile, must not wait for this one
        yield transaction


def let_writers_wait() -> None:
    """Have the server of this process begin its transactions on SQLite with the lock."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    AioSqliteConfiguration.begin_transaction = _begin_transaction  # type: ignore[assignment, method-assign]
