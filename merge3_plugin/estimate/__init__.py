"""Answers on a few items -> the accuracy over all of them, with its uncertainty."""
