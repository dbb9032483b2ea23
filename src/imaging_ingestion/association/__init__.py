"""Associations on asyncio: what `dimse` decides, carried out; and the services on top.

See docs/association.md.
"""
