"""The node's identity and notices, and what every part of the agent uses: folders, waiting, logs, errors."""
