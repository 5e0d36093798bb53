"""Breaks the package on purpose, a line at a time, and says which breaks no test notices.

``python -m benchmarks.mutants [PATH ...]`` takes every file of the rooms that compute (`rooms`), breaks one place of it
per run (`breaks`) and runs that file's same-named test in a fork of a process that has torch loaded (`forks`). A break
that the test lets pass is a survivor: it wants a better test or, where nothing can tell the two apart, an entry with
its reason in ``reasons.yaml`` (`reasons`). Exit code 1 while one has neither.
"""
