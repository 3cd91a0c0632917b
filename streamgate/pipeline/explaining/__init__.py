"""What would happen to a request and why, told without sending it: nothing here takes a turn, a lease or a count."""
