"""Modern Parallel and Distributed Python, "Actor Handles": three tasks write to one actor, the script reads from it.

Prints the new messages of every second, for a hundred seconds, then how many there were: 300.
ASYNCRAY_EXAMPLE_SPEED=10 makes every sleep ten times shorter.
"""

import os
import time

import asyncray.sync as ray

SPEED = float(os.environ.get("ASYNCRAY_EXAMPLE_SPEED", "1"))


@ray.remote
class MessageActor:
    def __init__(self):
        self.messages = []

    def add_message(self, message):
        self.messages.append(message)

    def get_and_clear_messages(self):
        messages = self.messages
        self.messages = []
        return messages


# A remote function which loops around and pushes messages to the actor.
@ray.remote
def worker(message_actor, j):
    for i in range(100):
        time.sleep(1 / SPEED)
        message_actor.add_message.remote(f"Message {i} from worker {j}.")


def main() -> None:
    # The three writers run at the same time; a sleeping task needs no core.
    with ray.init(num_cpus=4):
        # Create a message actor.
        message_actor = MessageActor.remote()

        # Start 3 tasks that push messages to the actor.
        workers = [worker.remote(message_actor, j) for j in range(3)]

        # Periodically get the messages and print them.
        count = 0
        for _ in range(100):
            new_messages = ray.get(message_actor.get_and_clear_messages.remote())
            print("New messages:", new_messages)
            count += len(new_messages)
            time.sleep(1 / SPEED)

        # Ours: the article stops here, while the last messages are on their way.
        ray.get(workers)
        while count < 300:
            count += len(ray.get(message_actor.get_and_clear_messages.remote()))
        print(f"{count} messages from 3 workers")


if __name__ == "__main__":
    main()
