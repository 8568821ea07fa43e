"""The library: no paths, no command line, no printing, and nothing happens at import.

But that checkpoints.py reads one key of the environment.
"""
