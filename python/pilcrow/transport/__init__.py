"""Connections to other nodes, and what both ends of a connection share.

Nothing here decides which node is called.
"""
