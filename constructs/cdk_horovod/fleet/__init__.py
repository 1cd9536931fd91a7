"""The Auto Scaling group of GPU instances, and its parts."""
