"""Room 5: scores, fidelity, statistics and the verdict. Arrays in, numbers out."""
