"""Jobs, and all that touches their Redis keys. Knows nothing of HTTP."""
