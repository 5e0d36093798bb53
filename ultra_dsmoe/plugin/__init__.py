"""The only folder that touches the host's internals: activation, parse rules, lookup, keys, routing.

`boot` waits for the host's modules, `host` knows which of their symbols we lean on and takes changes back, and one
module per concern makes the changes: `lookup`, `keys`, `entry`, `tasks`, `routing`. Importing the host must stay cheap
(`benchmarks/import_overhead.py`): what only a model YAML, a checkpoint or a verb needs is imported when one comes.
"""
