"""Measurements that are too long or too dependent on the machine for tests. Each file says how it is run."""
