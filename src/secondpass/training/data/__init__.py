"""Labelled queries from files and tables to checked training groups."""
