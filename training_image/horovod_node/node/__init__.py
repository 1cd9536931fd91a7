"""What a node knows of itself, and what every part of the agent uses: folders, clocks, logs, errors."""
