"""Ray Essentials, "Resource Specification": a task and an actor that need two CPUs and one GPU each.

Resources are what a node says it has: here we say one GPU, and the task asks for it without using it. Prints what the
task and the actor were given, and that one waits for the other, because there is only one GPU.
"""

import asyncray.sync as ray


@ray.remote(num_cpus=2, num_gpus=1)
def resource_intensive_task():
    # This task requires 2 CPUs and 1 GPU
    return ray.get_gpu_ids()


@ray.remote(num_cpus=2, num_gpus=1)
class ResourceHeavyActor:
    # This actor requires 2 CPUs and 1 GPU, as long as it lives
    def assigned(self):
        return ray.get_gpu_ids()


def main() -> None:
    with ray.init(num_cpus=4, num_gpus=1):
        if ray.cluster_resources().get("GPU", 0) < 1:
            # The node's environment can hide every GPU: then nothing that asks for one would ever run.
            print("skipped: CUDA_VISIBLE_DEVICES hides the GPU")
            return
        print("task on GPU", ray.get(resource_intensive_task.remote()))

        actor = ResourceHeavyActor.remote()
        print("actor on GPU", ray.get(actor.assigned.remote()))

        waiting = resource_intensive_task.remote()
        ready, _ = ray.wait([waiting], timeout=0.1)
        print("a task beside the actor has to wait:", not ready)
        ray.kill(actor)
        print("task on GPU", ray.get(waiting), "once the actor is gone")


if __name__ == "__main__":
    main()
