"""Solvers, one file each: (A + damping I)^p v."""
