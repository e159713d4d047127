"""What a daemon's life is made of: how it goes on from the last one, how it hands over what has closed."""

__all__: list[str] = []
