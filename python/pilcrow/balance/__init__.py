"""Which of several nodes a call goes to, and whether a failed call is tried again.

Nothing here does I/O. Time is an argument.
"""
