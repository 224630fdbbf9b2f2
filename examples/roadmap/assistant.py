"""Ray Essentials, "What are Actors?": an assistant who remembers, who is always there, and two who work side by side.

Prints alex's first four tasks, then one task each of a new alex and of bob.
"""

import asyncray.sync as ray


@ray.remote
class Assistant:
    def __init__(self):
        self.tasks_completed = 0

    def do_task(self):
        self.tasks_completed += 1
        return f"Completed task. Total tasks done: {self.tasks_completed}"


def main() -> None:
    with ray.init():
        # Stateful
        alex = Assistant.remote()
        print(ray.get(alex.do_task.remote()))  # Output: Completed task. Total tasks done: 1
        print(ray.get(alex.do_task.remote()))  # Output: Completed task. Total tasks done: 2

        # Persistent: alex is available as long as the cluster is running
        print(ray.get(alex.do_task.remote()))  # Output: Completed task. Total tasks done: 3
        # Even after a long time...
        print(ray.get(alex.do_task.remote()))  # Output: Completed task. Total tasks done: 4

        # Concurrent
        alex = Assistant.remote()
        bob = Assistant.remote()

        # Alex and Bob can work at the same time
        alex_task = alex.do_task.remote()
        bob_task = bob.do_task.remote()

        print("alex:", ray.get(alex_task))  # Output: Completed task. Total tasks done: 1
        print("bob:", ray.get(bob_task))  # Output: Completed task. Total tasks done: 1


if __name__ == "__main__":
    main()
