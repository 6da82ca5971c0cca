"""Mathematical answers: read as what they are, and compared.

From the outside in; each module imports only those below it:

    comparison.py    whether two forms are the same answer
    regions.py       sets of real numbers: `x > 3` is an interval
    forms.py         reads an answer: a value, several, a set, a tuple, an equation ...
    values.py        whether two expressions have the same value
    computation.py   the value of an expression at a point
    points.py        the points at which expressions with variables are compared
    arithmetic.py    sums, products, powers and roots, within limits of size and work
    numbers.py       exact and rounded numbers, and how large they may be
    budget.py        the work that a comparison may take
    names.py         what only names a value
    expressions.py   reads an expression as a tree
    cursor.py        moves over its tokens
    trees.py         what occurs in a tree
    tokens.py        the tokens, the names that an expression knows, and its numbers
    pieces.py        an answer in pieces, with the brackets around each
    latex.py         one spelling for each sign, and the unit behind a value
    spellings.py     the table of spellings
"""
