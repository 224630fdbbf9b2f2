"""The microbenchmark: Ray's own rows under Ray's own names, and those of asyncray's budgets.

``rows`` lists them; ``bench`` measures, ``budgets`` says what is good enough, ``report`` prints, ``compare`` makes a
page of two runs. The work of the rows stands in ``task_rows``, ``actor_rows``, ``object_rows``, ``lifecycle_rows`` and
``crowd_rows``, and the code that they run remotely in ``remote``. ``programs`` are scripts for rows that need a process
of their own, and for the relay, which measures what the machine allows.
"""
