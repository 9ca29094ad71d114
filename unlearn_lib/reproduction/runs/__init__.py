"""The runs: profile -> grid -> scenario -> bench -> record. Nothing in here knows a table, a figure or a claim."""
