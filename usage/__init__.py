"""What was used: requests, tokens, images, seconds and cost, by account, model and time."""
