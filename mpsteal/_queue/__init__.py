"""The shared-memory queue: layout, locks, range deques, task index, result rings. See README.md beside this file."""
