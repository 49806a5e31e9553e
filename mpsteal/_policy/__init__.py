"""Pure decisions: no clock, no process, no I/O. The engine, the agents and the tests call the same functions."""
