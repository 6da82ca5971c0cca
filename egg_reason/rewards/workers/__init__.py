"""Reward functions in processes of their own, so that none of them can hang or crash a run.

From the outside in; each module imports only those below it:

    scorer.py    Scorer: what the rest of the program uses
    pending.py   Pending: completions go out in batches as they finish, scores come back in job order
    crew.py      Crew: the worker processes, sent one batch at a time, replaced when they are lost
    log.py       PrintLog: what rewards print
    scores.py    Scores, RewardFailure: what comes back
    spawn.py     worker processes are fresh interpreters
    worker.py    in a worker process: watches over a child, and splits the calls that fail
    child.py     in the child: calls the rewards, and may die of it
"""
