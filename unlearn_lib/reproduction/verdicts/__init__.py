"""The verdicts: what the paper claims, judged by the records, and the page that says so."""
