"""The DIMSE proxy: associations carried between networks over NATS.

See docs/tunnel.md.
"""
