"""What every request passes before its route: each checks one thing, and none reads the body but the last."""
