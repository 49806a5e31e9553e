"""The worker process: how it is launched, what it runs, how tasks and results are pickled."""
