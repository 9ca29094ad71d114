"""Requests to be forgotten, over time."""
