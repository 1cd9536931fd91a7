"""Code that runs inside the user's process. Of the agent, it imports only the contract."""
