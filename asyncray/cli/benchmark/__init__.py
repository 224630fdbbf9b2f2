"""The microbenchmark: Ray's own rows under Ray's own names, and those of asyncray's budgets.

``rows`` lists them; ``bench`` measures, ``budgets`` says what is good enough, ``report`` prints, ``compare`` makes a
page of two runs. What a row does stands in ``tasks``, ``actors``, ``objects`` and ``lifecycle``; the code that they run
remotely in ``remote``; ``programs`` are scripts, for what only a process of its own can show, and for the relay, which
is the measure of what the machine allows.
"""
