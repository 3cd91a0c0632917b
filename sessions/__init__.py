"""What stays open: the relay and the registry of everything open now."""
