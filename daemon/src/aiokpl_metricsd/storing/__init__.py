"""What the state directory is made of: segments of the journal, tables of the outbox."""

__all__: list[str] = []
