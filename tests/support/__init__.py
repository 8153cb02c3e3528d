"""What the tests share: a fake clock, a virtual loop, a scripted service and joined in-memory transports."""
