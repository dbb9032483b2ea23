"""Store and forward: instances are taken by the proxy itself, and sent on by and by.

See docs/spool.md.
"""
