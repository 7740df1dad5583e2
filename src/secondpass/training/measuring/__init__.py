"""What training changed: dev scores, runs before and after, the card."""
