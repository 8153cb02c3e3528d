"""circuit_breaker."""
