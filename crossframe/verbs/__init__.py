"""Verbs of the command line that live in modules of their own; each is imported when used."""
