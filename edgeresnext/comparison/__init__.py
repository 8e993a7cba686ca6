"""Two reports against each other: what became slower or faster, more or less accurate."""
