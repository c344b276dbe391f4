"""From a call's arguments to a function of the author, and back.

Nothing here knows sockets.
"""
