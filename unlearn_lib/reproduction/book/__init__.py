"""The book: what a notebook begins with, how notebooks are executed, and how the book is built of them."""
