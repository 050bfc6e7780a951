"""What the client tests stand on: processes, configuration, the mock provider's control, and its invoice."""
