"""Tables of facts that commands print."""

__all__ = ["print_table"]


def print_table(facts: dict) -> None:
    """Print one fact a line, with the names in a column."""
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:<{width}}  {value}")
