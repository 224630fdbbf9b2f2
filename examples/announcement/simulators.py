"""The announcement of Ray, "Shared Mutable State with Actors": tasks that go on where the previous one stopped.

The article steps Atari's Pong; this is CartPole, which needs neither a display nor a game's ROM. Needs gymnasium: `pip
install "asyncray[examples]"`. Prints four observations, each after one more step of the same simulator, then the four
rewards of a second simulator that runs beside it.
"""

import gymnasium as gym

import asyncray.sync as ray


@ray.remote
class Simulator:
    def __init__(self):
        self.env = gym.make("CartPole-v1")
        self.env.reset(seed=0)

    def step(self, action):
        return self.env.step(action)


def main() -> None:
    with ray.init():
        # Create a simulator, this will start a new worker that will run all methods for this actor.
        simulator = Simulator.remote()

        observations = []
        for _ in range(4):
            # Take action 0 in the simulator.
            observations.append(simulator.step.remote(0))

        # Ours: the article keeps the references; here is what they stand for.
        other = Simulator.remote()
        others = [other.step.remote(1) for _ in range(4)]
        for position, (observation, *_) in enumerate(ray.get(observations)):
            print(f"observation {position}: {[round(float(value), 3) for value in observation]}")
        print("rewards of the other:", [float(reward) for _, reward, *_ in ray.get(others)])


if __name__ == "__main__":
    main()
