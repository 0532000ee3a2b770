"""Reads records and writes tables, figures and the page; imports no torch."""
