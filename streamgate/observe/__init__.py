"""What is seen from outside: metrics, one record per exchange, W3C trace context."""
