"""The engine for Ray: the same Collector, whose jobs run on a cluster.

Nothing inside the package imports it: it is loaded by name for `Collector(engine="ray")`.
"""
