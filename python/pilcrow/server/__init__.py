"""Takes calls of other nodes, bounded for each caller.

Nothing here knows what a handler does.
"""
