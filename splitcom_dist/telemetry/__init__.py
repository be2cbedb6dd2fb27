"""What a run leaves behind: logs in HDF5, live progress, the summary."""
