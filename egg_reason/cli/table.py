"""How commands show facts."""

__all__ = ["print_table"]


def print_table(facts: dict) -> None:
    """One line a fact, the names in a column."""
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:<{width}}  {value}")
