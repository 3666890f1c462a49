"""Files that appear whole or not at all, and that are believed only where they are what was written."""
