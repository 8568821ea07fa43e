"""The library: no paths, no command line, no printing, and nothing happens at import."""
