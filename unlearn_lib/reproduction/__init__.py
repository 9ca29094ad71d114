"""The paper as data, the runs that reproduce it, and the drivers of notebooks and book."""
