"""Solvers, one file each: (A + damping I)^p v. Each is a frozen dataclass of its options, see `base`; `registry` knows their names."""
