"""What runs inside a user's process; it imports the contract and nothing else of the agent."""
