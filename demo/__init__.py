"""Two tiny demo checkpoints, Avibe (text) and Avision (images), and the seeded scripts that made them."""
