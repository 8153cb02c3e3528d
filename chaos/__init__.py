"""Small services that behave as told, and what puts the sidecar to the test with them."""
