"""What a task without a function runs, so that it takes its place in the queue like any other."""


def reached() -> None:
    """An agent has come to it."""
