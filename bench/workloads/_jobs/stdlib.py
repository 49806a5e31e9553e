"""Analyse modules of the standard library: how many functions and branches, and which functions are the longest.

Files of a few bytes stand beside files of hundreds of kilobytes, in an order drawn by seed. The parser's work is in C,
the walk over the tree in Python. A result is small.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import NamedTuple

from bench.workloads._jobs import sources

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.comprehension)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 10


class Report(NamedTuple):
    """Of one file, or of all. `longest`: lines, file, name, the longest first."""

    files: int
    unreadable: int
    functions: int
    branches: int
    longest: list[tuple[int, str, str]]


def items(scale: float) -> list[str]:
    return sources.draw(int(2_000_000 * scale), seed=11)


def task(path: str) -> Report:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes and the like
            tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Report(1, 1, 0, 0, [])  # the library's own tests hold files that are broken on purpose
    functions = branches = 0
    lengths = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            functions += 1
            lengths.append(((node.end_lineno or node.lineno) - node.lineno + 1, path, node.name))
        elif isinstance(node, BRANCHES):
            branches += 1
    return Report(1, 0, functions, branches, sorted(lengths, reverse=True)[:LONGEST])


def merge(results: list[Report]) -> Report:
    longest = sorted((line for report in results for line in report.longest), reverse=True)[:LONGEST]
    return Report(
        sum(report.files for report in results),
        sum(report.unreadable for report in results),
        sum(report.functions for report in results),
        sum(report.branches for report in results),
        longest,
    )


def twin(paths: list[str]) -> Report:
    unreadable = functions = branches = 0
    lengths = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(Path(path).read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            unreadable += 1
            continue
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                functions += 1
                lengths.append(((node.end_lineno or node.lineno) - node.lineno + 1, path, node.name))
            elif isinstance(node, BRANCHES):
                branches += 1
    return Report(len(paths), unreadable, functions, branches, sorted(lengths, reverse=True)[:LONGEST])
