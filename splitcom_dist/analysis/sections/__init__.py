"""The sections of the report, one a module: each draws its figures and fills its tables from the logs of runs."""
