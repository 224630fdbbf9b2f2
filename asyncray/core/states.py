"""The states of tasks, workers and actors."""

from __future__ import annotations

# Tasks
# It waits for its dependencies, or behind an earlier call of its lane that waits for them, or for a restart to be due.
WAITING = "waiting"
# It waits for resources and a worker, or in the mailbox of its actor.
QUEUED = "queued"
# A worker has it, and runs it or will run it.
SENT = "sent"
# It has finished, with a value or an error.
FINISHED = "finished"

# How far a task was cancelled. One field for all three: with another one each task would take 16 bytes more.
NOT_CANCELLED = 0
CANCELLED = 1
# Together with all tasks that it submits, also later.
CANCELLED_WITH_CHILDREN = 2

# How a task of another node has ended here
# With a value, or with an error after which it is not to be tried again.
FINAL = 0
# It raised, and its options allow a retry.
RAISED = 1
# Its process has ended.
CRASHED = 2
# Its home has asked it back before it began.
WITHDRAWN = 3
# Its process has ended because its zygote did: the task is not to blame.
DIED_WITH_ZYGOTE = 4

# Workers
# A worker that was ordered and has not said hello; an actor whose constructor runs.
STARTING = "starting"
# Ready for a lease.
IDLE = "idle"
# It holds a lease of a shape.
LEASED = "leased"
# It hosts an actor.
ACTOR = "actor"
# The daemon ended it, or it ends by itself.
LEAVING = "leaving"
# The process has ended; an actor that will not be restarted.
DEAD = "dead"

# Actors
# It waits for its first worker.
PENDING = "pending"
# Its constructor has returned: it runs calls.
ALIVE = "alive"
# Its process ended, and it waits for another worker.
RESTARTING = "restarting"
