"""What moves the thresholds between epochs."""
