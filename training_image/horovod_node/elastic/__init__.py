"""A ring that goes on when nodes come and go."""
