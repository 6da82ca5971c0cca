"""`egg-reason probe`: which sigma, learning rate and population, before a long run.

command.py measures and suggests, populations.py lets members answer, suggestion.py holds the arithmetic,
report.py the table and the plot.
"""
