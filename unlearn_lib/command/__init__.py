"""The `unlearn` command and what it writes."""
