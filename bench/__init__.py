"""Measurements of mpsteal beside the pool it replaces; run ``python -m bench pool``, read
``bench/README.md``.

This file imports nothing: under the spawn start method every agent imports it.
"""
