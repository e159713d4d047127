"""What HTTP is made of: the sockets, who serves them, the requests, the daemon's own metrics."""

__all__: list[str] = []
