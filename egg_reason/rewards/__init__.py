"""Rewards: text in, number out.

A reward is a plain function in TRL's signature, named by a built-in name or by `path/to/file.py:function`:
`functions` finds and checks it, `scorer` runs it out of process, `countdown` holds the built-in grader of that task.
"""
