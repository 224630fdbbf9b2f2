"""The states of tasks, workers and actors."""

from __future__ import annotations

# Tasks
WAITING = "waiting"  # for dependencies, or for its turn behind a call that waits for them
QUEUED = "queued"  # for resources and a worker, or in a mailbox
SENT = "sent"  # to a worker, which runs it or will
OVER = "over"

# Workers
STARTING = "starting"  # workers: forked, no hello yet; actors: the constructor runs
IDLE = "idle"
LEASED = "leased"
ACTOR = "actor"
LEAVING = "leaving"  # told to end, or ending by itself
DEAD = "dead"  # actors too

# Actors
PENDING = "pending"  # to be placed
ALIVE = "alive"
RESTARTING = "restarting"  # to be placed again
