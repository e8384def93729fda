"""What settings are made of: kinds of values, their declaration, where they are read, and the rules between them."""
