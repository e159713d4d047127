"""What the configuration is made of: variables put in, types checked, errors told where they are."""

__all__: list[str] = []
