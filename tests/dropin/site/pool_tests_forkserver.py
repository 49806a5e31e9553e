"""The interpreter's multiprocessing tests for forkserver, installed as its own runner does it.

A module that children can import by name, since tests send their own methods to workers. The
interpreter has such modules too, but some installations (3.11.7, 3.12.1) leave them out.
"""

from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), "forkserver")
