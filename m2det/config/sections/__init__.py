"""The sections of params.yaml, each a class: its keys with types, ranges, defaults and descriptions."""
