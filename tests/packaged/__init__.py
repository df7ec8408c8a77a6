"""Holds what users get against this tree, and follows README and the quickstart with it, from nothing."""
