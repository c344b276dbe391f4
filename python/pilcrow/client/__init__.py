"""Calls to other nodes: attempts, streams and events.

Nothing here owns a socket: ``transport`` does.
"""
