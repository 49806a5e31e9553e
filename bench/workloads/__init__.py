"""The workloads: one file each, that opens with its question and what it cannot tell, and ends with `ROWS`."""
