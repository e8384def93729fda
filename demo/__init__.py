"""Two tiny demo checkpoints, Avibe (text) and Avision (pictures), and the seeded scripts that made them."""
