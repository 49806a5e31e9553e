"""The batch jobs of `bench.workloads.jobs`, a module for each, with the same names in all:

    items(scale)    the list that is mapped over; scale 1 is some 1.5 s in a plain loop on the reference machine
    task(item)      what an agent does
    merge(results)  the answer, made of the tasks' results in the order of their items
    twin(items)     the same answer by a program without tasks, as one would write it for one core

Agents under spawn import them, so they import little, and nothing of mpsteal.
"""
