"""The embedded generators: a fictitious world and the texts written about it.

Nothing here is copied from anywhere, and nothing depends on the Python version: every draw comes from `draw.Draw`.
"""
