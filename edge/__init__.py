"""What stands between the socket and a route: who calls, what a route needs, budgets, and clients that leave."""
