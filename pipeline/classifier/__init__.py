"""Room 2: the classifier that every arm, the baseline and the teachers share."""
