"""What only a card can show, measured in one run: the engine's parts, its tests on a GPU, and load on real shapes."""
