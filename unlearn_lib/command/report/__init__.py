"""The report of a run: what was measured before and after, as JSON and as one self-contained HTML page."""
