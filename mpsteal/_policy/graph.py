"""Dependencies: is there a circle, so that none of its tasks could ever start?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def find_cycle(edges: Mapping[K, Iterable[K]]) -> list[K] | None:
    """A cycle, if there is one: each node has an edge to the next, and the last to the first (which is not repeated).

    Depth-first search (Tarjan, "Depth-first search and linear graph algorithms", 1972), O(nodes + edges), with a stack
    of its own: a chain of tasks is easily longer than Python's recursion limit.

    Args:
        edges: by node, the nodes it leads to. One that is only led to needs no entry.
    """
    done: set[K] = set()
    for root, heads in edges.items():
        if root in done:
            continue
        path: dict[K, None] = {root: None}  # from the root to here, in order
        to_see = [iter(heads)]
        while path:
            for node in to_see[-1]:
                if node in path:
                    nodes = list(path)
                    return nodes[nodes.index(node) :]
                if node not in done and node in edges:
                    path[node] = None
                    to_see.append(iter(edges[node]))
                    break
            else:
                done.add(path.popitem()[0])
                to_see.pop()
    return None
