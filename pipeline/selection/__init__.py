"""Room 4: which synthetic rows may be used, and why the others may not. Arrays in; labels, distances and reasons out."""
