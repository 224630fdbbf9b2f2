"""The next tick of a shell."""

from __future__ import annotations

import asyncio

from asyncray.io.next_tick import NextTick


async def test_a_tick_comes_once_and_earlier_if_it_is_brought_forward() -> None:
    loop = asyncio.get_running_loop()
    ticked = asyncio.Event()
    tick = NextTick(loop, ticked.set)
    tick.set_after(3600.0)
    tick.bring_forward(loop.time() + 7200.0)
    tick.bring_forward(loop.time())
    # It is due in this turn of the loop, and is brought forward again.
    tick.bring_forward(loop.time() - 1.0)
    await ticked.wait()


async def test_a_tick_that_was_cancelled_is_not_brought_forward() -> None:
    loop = asyncio.get_running_loop()
    ticks: list[None] = []
    tick = NextTick(loop, lambda: ticks.append(None))
    tick.set_after(0.0)
    tick.cancel()
    tick.bring_forward(loop.time())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not ticks
