"""NATS as everybody here reaches it: who we are to it, whom we trust, one connection kept alive."""
