"""The settings: their declarations, kinds of values, sources, and the rules between them."""
