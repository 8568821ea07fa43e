"""Room 1: from a source on disk to rows, splits, augmented views and batches."""
