"""The yardstick: a plain-Python price-time-priority book on heaps and deques, timed in the same run as the kernel.

It does what such a book does in its simplest fast form and no more: limit orders and cancels by id; no fees, holds,
accounts or events. A machine's mood changes by a factor of two; the ratio to this does not.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

MASK_64 = (1 << 64) - 1

Order = list[int]  # id, remaining lots, side, price


class ReferenceBook:
    """Sides are 0 (buy) and 1 (sell); ``checksum`` chains every trade in order of execution."""

    def __init__(self) -> None:
        self.queues: tuple[dict[int, deque[Order]], dict[int, deque[Order]]] = ({}, {})
        self.heaps: tuple[list[int], list[int]] = ([], [])
        self.live: dict[int, Order] = {}
        self.trades = 0
        self.volume = 0
        self.checksum = 0

    def place(self, side: int, order_id: int, price: int, lots: int) -> None:
        """Match a limit order, then let the rest rest."""
        opposite = 1 - side
        while lots:
            best = self.best(opposite)
            if best is None or (price < best if side == 0 else price > best):
                break
            queue = self.queues[opposite][best]
            while lots and queue:
                maker = queue[0]
                if maker[1] == 0:
                    queue.popleft()
                    continue
                fill = min(lots, maker[1])
                lots -= fill
                maker[1] -= fill
                self.trades += 1
                self.volume += fill
                self.checksum = chain(self.checksum, maker[0], order_id, best, fill)
                if maker[1] == 0:
                    queue.popleft()
                    del self.live[maker[0]]
        if lots:
            order = [order_id, lots, side, price]
            own = self.queues[side].get(price)
            if own is None:
                own = self.queues[side][price] = deque()
                heappush(self.heaps[side], -price if side == 0 else price)
            own.append(order)
            self.live[order_id] = order

    def cancel(self, order_id: int) -> None:
        """Take an order out; its place in the queue is skipped when it comes up."""
        self.live.pop(order_id)[1] = 0

    def best(self, side: int) -> int | None:
        """Best price of a side; None when it is empty."""
        heap, queues = self.heaps[side], self.queues[side]
        while heap:
            price = -heap[0] if side == 0 else heap[0]
            queue = queues.get(price)
            if queue is not None:
                while queue and queue[0][1] == 0:
                    queue.popleft()
                if queue:
                    return price
                del queues[price]
            heappop(heap)
        return None


def chain(checksum: int, maker_id: int, taker_id: int, price: int, lots: int) -> int:
    """Checksum over trades in order of execution, modulo 2**64."""
    return (checksum * 1000003 + maker_id * 31 + taker_id * 17 + price * 7 + lots) & MASK_64
