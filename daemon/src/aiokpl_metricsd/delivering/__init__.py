"""What the delivery is made of: what a sink sees, its queue, its worker, its ledger."""

__all__: list[str] = []
