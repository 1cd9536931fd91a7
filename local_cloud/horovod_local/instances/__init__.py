"""EC2 instances as processes of this machine, with their metadata, user data and events."""
