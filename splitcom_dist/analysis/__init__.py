"""What the logs of runs say: reads the files of finished, running and killed runs, never a live process."""
