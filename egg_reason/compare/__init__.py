"""`egg-reason compare`: algorithms on the same model, task, order of data, evaluator and budget, several
seeds of each.

plan.py: what is to be run, checked. work.py: processes, side by side on equal shares of the cores.
results.py: the results, as numbers. statistics.py: intervals over seeds and problems. words.py: the same
in words and tables. page.py: report.html.
"""
