"""A file a data set: what is particular to it, and the command that it is run with."""
