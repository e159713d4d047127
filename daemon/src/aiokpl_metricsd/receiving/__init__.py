"""What the receiver reads: the front door, lanes, and the socket that lanes connect to."""

__all__: list[str] = []
