"""Runs the tests on a machine that is unkind to them, in a way that a seed decides."""
