"""Modern Parallel and Distributed Python, "From Classes to Actors" and "Actor Handles", in the async face.

Prints the counter's 0 and 2, then how many messages two tasks and the script itself wrote to one actor: 15.
"""

import asyncio

import asyncray
import asyncray.sync as ray


@asyncray.remote
class Counter:
    def __init__(self):
        self.x = 0

    def inc(self):
        self.x += 1

    def get_value(self):
        return self.x


@asyncray.remote
class MessageActor:
    def __init__(self):
        self.messages = []

    def add_message(self, message):
        self.messages.append(message)

    def get_and_clear_messages(self):
        messages = self.messages
        self.messages = []
        return messages


# A task's body is ordinary blocking code, so here the blocking face is the right one.
@asyncray.remote
def worker(message_actor, j):
    ray.get([message_actor.add_message.remote(f"Message {i} from worker {j}.") for i in range(5)])


async def main() -> None:
    async with asyncray.init(num_cpus=2):
        c = Counter.remote()
        print(await c.get_value.remote())
        await asyncio.gather(c.inc.remote(), c.inc.remote())
        print(await c.get_value.remote())

        message_actor = MessageActor.remote()
        here = [message_actor.add_message.remote(f"Message {i} from here.") for i in range(5)]
        await asyncio.gather(*here, *(worker.remote(message_actor, j) for j in range(2)))
        messages = await message_actor.get_and_clear_messages.remote()
        print(len(messages), "messages, the first from here:", next(m for m in messages if m.endswith("here.")))


if __name__ == "__main__":
    asyncio.run(main())
