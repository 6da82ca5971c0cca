"""Mathematical answers: read as what they are, and compared.

From the outside in; each module imports only those below it:

    comparison.py    whether two forms are the same answer
    regions.py       sets of real numbers: `x > 3` is an interval
    forms.py         reads an answer: a value, several, a set, a tuple, an equation ...
    values.py        whether two expressions have the same value
    computation.py   the value of an expression at a point, within limits of size and work
    budget.py        the work that a comparison may take
    expressions.py   reads an expression as a tree
    tokens.py        its tokens, the names that it knows, and its numbers
    latex.py         one spelling for each sign, and the unit behind a value
"""
