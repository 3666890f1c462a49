"""Files: written whole or not at all, checked by checksum, and read safely where others wrote them."""
