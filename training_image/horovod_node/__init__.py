"""The agent that turns an instance into a node of a Horovod ring, and leaves when the run is over."""
