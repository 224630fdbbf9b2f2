"""asyncio's `run_in_executor` with an asyncray executor: blocking functions off the event loop, in other processes.

Prints a result, how often the loop went round meanwhile, and an error that keeps its class.
"""

import asyncio
import hashlib

from asyncray.util import Executor


def digest(rounds: int) -> str:
    value = b"asyncray"
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()[:8]


async def main() -> None:
    loop = asyncio.get_running_loop()
    with Executor() as executor:
        work = loop.run_in_executor(executor, digest, 100_000)
        turns = 0
        while not work.done():
            turns += 1
            await asyncio.sleep(0.001)
        print("digest:", await work, "the loop went on:", turns > 0)
        try:
            await loop.run_in_executor(executor, int, "twelve")
        except ValueError as error:
            print("error:", error)


if __name__ == "__main__":
    asyncio.run(main())
