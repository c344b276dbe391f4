"""Who is there: the session with the Distributor, the list, and which nodes offer a route.

Nothing here calls a node.
"""
