"""Two orders in every workspace, and what was done with them, in one SQLite file.

A call is recorded by its key, with its answer: a note in the transaction that writes the note, so
that it is there once or not at all. A refund is recorded before money moves, and its answer after
that: one that is recorded without an answer was interrupted, and nobody pays again.
"""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

Answer = dict[str, Any]
"""Either `{"result": …}`, or `{"error": {"reason", "message"}}`: the tool's own word, as final."""

TOTALS = {"A-1001": 4_900, "A-1002": 12_000}

SCHEMA = """
create table if not exists notes (workspace_id text, order_id text, note text) strict;
create table if not exists refunds (workspace_id text, order_id text, cents integer) strict;
create table if not exists calls (
  workspace_id text, key text, answer text, primary key (workspace_id, key)
) strict;
"""


class InterruptedCallError(Exception):
    """The call was begun before, and nobody knows how it ended."""


class Orders:
    def __init__(
        self,
        file: str,
        look_up: Callable[[], Awaitable[None]],
        pay: Callable[[int], Awaitable[None]],
    ) -> None:
        self._look_up = look_up
        self._pay = pay
        self._payments: set[asyncio.Task[Answer]] = set()
        self._database = sqlite3.connect(file)
        self._database.executescript(SCHEMA)

    async def get(self, workspace_id: str, order_id: str) -> Answer:
        # Ends here where the caller has given up, or its deadline has passed.
        await self._look_up()
        return self._order(workspace_id, order_id)

    def note(self, workspace_id: str, key: str, order_id: str, text: str) -> Answer:
        with self._database:
            self._database.execute("begin immediate")
            if known := self.outcome(workspace_id, key):
                return known
            if order_id in TOTALS:
                row = (workspace_id, order_id, text)
                self._database.execute("insert into notes values (?, ?, ?)", row)
            answer = self._order(workspace_id, order_id)
            row = (workspace_id, key, json.dumps(answer))
            self._database.execute("insert into calls values (?, ?, ?)", row)
            return answer

    async def refund(self, workspace_id: str, key: str, order_id: str, cents: int) -> Answer:
        with self._database:
            self._database.execute("begin immediate")
            if known := self.outcome(workspace_id, key):
                return known
            refusal = self._refusal(workspace_id, order_id, cents)
            row = (workspace_id, key, json.dumps(refusal) if refusal else None)
            self._database.execute("insert into calls values (?, ?, ?)", row)
            if refusal:
                return refusal
            row = (workspace_id, order_id, cents)
            self._database.execute("insert into refunds values (?, ?, ?)", row)
        # What has begun is finished and recorded, also where the caller does not wait for it.
        payment = asyncio.create_task(self._finish_refund(workspace_id, key, order_id, cents))
        self._payments.add(payment)
        payment.add_done_callback(self._payments.discard)
        return await asyncio.shield(payment)

    def outcome(self, workspace_id: str, key: str) -> Answer | None:
        """The recorded answer, or None for a call that was never heard of."""
        find = "select answer from calls where workspace_id = ? and key = ?"
        row = self._database.execute(find, (workspace_id, key)).fetchone()
        if row is None:
            return None
        if row[0] is None:
            raise InterruptedCallError
        return json.loads(row[0])

    async def close(self) -> None:
        """Waits for the payments that are under way."""
        await asyncio.gather(*self._payments, return_exceptions=True)
        self._database.close()

    async def _finish_refund(
        self, workspace_id: str, key: str, order_id: str, cents: int
    ) -> Answer:
        await self._pay(cents)
        answer = self._order(workspace_id, order_id)
        with self._database:
            update = "update calls set answer = ? where workspace_id = ? and key = ?"
            self._database.execute(update, (json.dumps(answer), workspace_id, key))
        return answer

    def _order(self, workspace_id: str, order_id: str) -> Answer:
        if order_id not in TOTALS:
            return _failure("order_not_found", f"There is no order {order_id}.")
        of_order = (workspace_id, order_id)
        find_sum = (
            "select coalesce(sum(cents), 0) from refunds where workspace_id = ? and order_id = ?"
        )
        (refunded,) = self._database.execute(find_sum, of_order).fetchone()
        find_notes = "select note from notes where workspace_id = ? and order_id = ? order by rowid"
        notes = [note for (note,) in self._database.execute(find_notes, of_order)]
        return {
            "result": {
                "order_id": order_id,
                "total_cents": TOTALS[order_id],
                "refunded_cents": refunded,
                "notes": notes,
            }
        }

    def _refusal(self, workspace_id: str, order_id: str, cents: int) -> Answer | None:
        order = self._order(workspace_id, order_id)
        if "error" in order:
            return order
        left = order["result"]["total_cents"] - order["result"]["refunded_cents"]
        return _failure("refund_too_large", f"{left} cents are left.") if cents > left else None


def _failure(reason: str, message: str) -> Answer:
    return {"error": {"reason": reason, "message": message}}
