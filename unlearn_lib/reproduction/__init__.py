"""The paper as data, the runs that reproduce it, what is shown and judged of them, and the book that is made of it.

Data flow one way: `paper`, `inventory` and `checkout` know nothing of the rest; `runs` computes records, `exhibits` makes tables
and figures of them, `verdicts` judges the paper's claims by these, and `book` puts it all together.
"""
